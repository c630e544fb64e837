"""The load generator: `python -m jobs.benchmark.serve.load FOLDER`, a process beside the servers, HTTP/1.1 on loopback.

Closed loop: so many connections, each asks again as soon as it is answered; this finds the capacity. Open loop:
requests are due at random moments (Poisson) whatever the server does, and latency counts from the moment a request was
*due*, so a stall is felt by all who would have asked during it. Every request has an outcome; one without a whole
answer is lost.

FOLDER holds `load.json`; `fired.json` is written there at the end; SIGTERM brings the end about early. Raw asyncio over
httptools, because on a machine of two cores the generator's own share isn't free: it is measured and told.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import resource
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.benchmark.serve.connection import Connection, LostError

LOAD_FILE, FIRED_FILE = "load.json", "fired.json"
_STALE_S = 2.0  # a connection that rested longer isn't used again: the server may be closing it


@dataclass(frozen=True)
class Load:
    """What to fire at `http://127.0.0.1:port/path`.

    Parameters
    ----------
    bodies : JSON bodies, asked in turn.
    rate : arrivals a second; None: closed loop.
    connections : as many at once; in an open loop opened when needed, and what finds none free waits, which counts.
    num_requests : end after so many, if `seconds` aren't over before.
    """

    port: int
    path: str
    bodies: tuple[str, ...]
    seconds: float
    connections: int
    rate: float | None = None
    num_requests: int | None = None
    seed: int = 0
    timeout_s: float = 120.0


@dataclass(frozen=True)
class Outcome:
    """What came of one request. Times are the machine's monotonic clock; status 0: lost, and `fault` says how."""

    body: int
    due: float
    sent: float
    done: float
    status: int
    retry_after: str | None = None
    answer: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Fired:
    """All outcomes, when it began, and the processor time that the generator took."""

    began: float
    ended: float
    cpu_s: float
    outcomes: tuple[Outcome, ...]


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Moments of a Poisson process, from 0 up to `seconds`."""
    rng, at = random.Random(seed), 0.0  # noqa: S311 - no secret
    while (at := at + rng.expovariate(rate)) < seconds:
        yield at


async def fire(load: Load) -> Fired:
    """Fire, wait for every answer, and tell."""
    cpu_s, began = _cpu_s(), asyncio.get_running_loop().time()
    gunner = _Gunner(load, began)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, gunner.stop)
    await (gunner.closed() if load.rate is None else gunner.open(load.rate))
    return Fired(began, asyncio.get_running_loop().time(), _cpu_s() - cpu_s, tuple(gunner.outcomes))


class _Gunner:
    """One firing: whose turn it is, free connections, outcomes so far."""

    def __init__(self, load: Load, began: float) -> None:
        self._load, self._began, self._is_stopped = load, began, False
        self._raw = [_request(load, body) for body in load.bodies]
        self._turns = iter(range(load.num_requests)) if load.num_requests is not None else itertools.count()
        self._rooms = asyncio.Semaphore(load.connections)
        self._free: list[tuple[float, Connection]] = []
        self.outcomes: list[Outcome] = []

    def stop(self) -> None:
        """Ask nothing more; what is under way is waited for."""
        self._is_stopped = True

    async def closed(self) -> None:
        """Every connection asks until the time is over."""
        ends = self._began + self._load.seconds
        await asyncio.gather(*(self._keep_asking(ends) for _ in range(self._load.connections)))

    async def open(self, rate: float) -> None:
        """Start requests when they are due."""
        loop, asked = asyncio.get_running_loop(), set[asyncio.Task[None]]()
        for at, turn in zip(arrivals(rate, self._load.seconds, self._load.seed), self._turns, strict=False):
            await asyncio.sleep(self._began + at - loop.time())
            if self._is_stopped:
                break
            asked.add(asyncio.create_task(self._ask(turn, self._began + at)))
        await asyncio.gather(*asked)

    async def _keep_asking(self, ends: float) -> None:
        loop = asyncio.get_running_loop()
        while not self._is_stopped and (now := loop.time()) < ends and (turn := next(self._turns, None)) is not None:
            await self._ask(turn, now)

    async def _ask(self, turn: int, due: float) -> None:
        """Ask once, and keep the outcome."""
        loop, body = asyncio.get_running_loop(), turn % len(self._raw)
        async with self._rooms:
            sent = loop.time()
            try:
                async with asyncio.timeout(self._load.timeout_s):
                    connection = await self._connection()
                    answer = await connection.ask(self._raw[body])
            except (LostError, OSError) as error:  # TimeoutError is an OSError
                fault = f"{type(error).__name__}: {error}"
                self.outcomes.append(Outcome(body, due, sent, loop.time(), 0, fault=fault))
                return
            text = answer.body.decode(errors="replace")
            self.outcomes.append(Outcome(body, due, sent, loop.time(), answer.status, answer.retry_after, text))
            self._free.append((loop.time(), connection))

    async def _connection(self) -> Connection:
        """The one that rested shortest, else a new one."""
        loop = asyncio.get_running_loop()
        while self._free:
            since, connection = self._free.pop()
            if connection.is_open and loop.time() - since < _STALE_S:
                return connection
            connection.close()
        _, connection = await loop.create_connection(Connection, "127.0.0.1", self._load.port)
        return connection


def _request(load: Load, body: str) -> bytes:
    raw = body.encode()
    head = f"POST {load.path} HTTP/1.1\r\nHost: 127.0.0.1:{load.port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def read_load(folder: Path) -> Load:
    """Read what the measuring process wrote."""
    plain = json.loads((folder / LOAD_FILE).read_text(encoding="utf-8"))
    return Load(**{**plain, "bodies": tuple(plain["bodies"])})


def read_fired(folder: Path) -> Fired:
    """Read what the generator wrote."""
    plain = json.loads((folder / FIRED_FILE).read_text(encoding="utf-8"))
    return Fired(**{**plain, "outcomes": tuple(Outcome(**outcome) for outcome in plain["outcomes"])})


def main() -> int:
    """Fire what the folder says."""
    folder = Path(sys.argv[1])
    fired = asyncio.run(fire(read_load(folder)))
    (folder / FIRED_FILE).write_text(json.dumps(asdict(fired)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
