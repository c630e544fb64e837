"""A replica killed under load, then a rolling change of bundle under load; every answer is held against the scorer's.

The replica is found among the processes that the service started, by the title that Ray gives it, and gets SIGKILL. The
change is `serve run` of changed settings on the Ray that the service started, from a process of its own. A call that
the service makes again on another replica shows outside as time only, so retries aren't counted.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from jobs.benchmark.client import ROOT
from jobs.benchmark.serve.bench import Bench
from jobs.benchmark.serve.errors import KillError
from jobs.benchmark.serve.launches import NAME, settings
from jobs.benchmark.serve.load import Fired
from jobs.benchmark.serve.options import ServeOptions
from jobs.benchmark.serve.processes import Process
from jobs.benchmark.serve.row import ServeRow, Target
from jobs.benchmark.serve.server import Server, environment
from models.bundle import Bundle
from models.gates import ALLOWED_UNMEASURED, REFERENCE

REPLICAS = 2
_APP = "verbatim"
_TITLE = f"ray::ServeReplica:{_APP}:{NAME}:"
_GCS = re.compile(r"--gcs-address=(\S+)")
_AT = 0.4  # of the measurement's time
_STARTS_IN_S, _CHANGE_S, _AFTER_S = 60.0, 300.0, 3.0


def kill_one(bench: Bench, server: Server) -> None:
    """Kill one of the replicas in the middle of a closed loop."""
    victims = all_replicas(server)
    size, began = bench.options.sizes[0], time.monotonic()
    killed_at: list[float] = []

    def kill() -> bool:
        if not killed_at and time.monotonic() - began > _AT * bench.options.seconds:
            os.kill(victims[0].pid, signal.SIGKILL)
            killed_at.append(time.monotonic())
        return False

    row, fired = bench.measure("kill", size, bench.our_load(server, size, bench.options.seconds), meanwhile=kill)
    note = f"{_in_flight(fired, killed_at[0])} requests in flight at the kill; slowest answer {slowest_s(fired):.1f} s"
    bench.rows.append(replace(row, note=note))
    bench.targets.append(_no_failures("failed, lost or wrong when a replica is killed", row))


def change(bench: Bench, server: Server, other: Bundle) -> None:
    """Put another bundle in the place of the first, under the same load."""
    changing = Changing(bench, server, other)
    size = bench.options.sizes[0]
    row, fired = bench.measure("rolling", size, bench.our_load(server, size, _CHANGE_S), meanwhile=changing)
    changing.check()
    answered = [outcome for outcome in fired.outcomes if outcome.status == 200]
    num_new = sum(f'"{other}"' in outcome.answer for outcome in answered)
    note = f"{len(answered) - num_new} answers of the old bundle, {num_new} of the new; "
    bench.rows.append(replace(row, note=note + f"slowest answer {slowest_s(fired):.1f} s"))
    bench.targets.append(_no_failures("failed, lost or wrong in a change of bundle", row))
    if not num_new:
        raise KillError("the service never answered with the new bundle")


@dataclass
class Changing:
    """Starts the change after a moment, and says that it is enough a moment after the change is through."""

    bench: Bench
    server: Server
    other: Bundle

    def __post_init__(self) -> None:
        self._log = self.bench.folder / "change.log"
        self._began, self._ended_at = time.monotonic(), 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> bool:
        """Look how it stands."""
        now = time.monotonic()
        if self._process is None:
            if now - self._began > _AFTER_S:
                self._process = self._start()
        elif not self._ended_at and self._process.poll() is not None:
            self._ended_at = now
        return bool(self._ended_at) and now - self._ended_at > _AFTER_S

    def check(self) -> None:
        """Raise if the change itself failed."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.kill()
        if code := self._process.wait():
            raise KillError(f"`serve run` ended with code {code}: {self._log.read_text(errors='replace')[-2000:]}")

    def _start(self) -> subprocess.Popen[bytes]:
        address = ray_address(self.server)
        file = changed_settings(self.other, self.bench, self.server.launch.port)
        command = [str(Path(sys.executable).parent / "serve"), "run", "--address", address, "--non-blocking"]
        command += ["--name", _APP, "serving.app:build", f"config={file}"]
        with self._log.open("wb") as out:
            return subprocess.Popen(command, cwd=ROOT, env=environment({}), stdout=out, stderr=out)  # noqa: S603 - Ray's


def changed_settings(other: Bundle, bench: Bench, port: int) -> Path:
    """The same settings with another bundle. Under `serve run` the address stands in `ingress.listen`."""
    file = bench.folder / "changed.yaml"
    plain = settings(other, replace(bench.options, precision=other_precision(bench.options)), port, REPLICAS)
    plain["ingress"] = {"listen": plain.pop("http")}
    file.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return file


def other_precision(options: ServeOptions) -> str:
    """Random weights have no record that lets them run in int8 or fp8."""
    return options.precision if options.precision in ALLOWED_UNMEASURED else REFERENCE


def all_replicas(server: Server) -> list[Process]:
    """The processes that hold the bundle, the oldest first; the service answers as soon as the first of them does."""
    deadline = time.monotonic() + _STARTS_IN_S
    while len(found := [process for process in server.processes() if process.title.startswith(_TITLE)]) != REPLICAS:
        if time.monotonic() > deadline:
            raise KillError(f"{len(found)} replicas run, expected {REPLICAS}: {server.last_words()}")
        time.sleep(0.2)
    return sorted(found, key=lambda process: process.pid)


def ray_address(server: Server) -> str:
    """Where the service's own Ray listens, as its processes are told."""
    found = (_GCS.search(process.title) for process in server.processes())
    address = next((match[1] for match in found if match), None)
    if address is None:
        raise KillError(f"the service's Ray isn't found: {server.last_words()}")
    return address


def slowest_s(fired: Fired) -> float:
    """Of the answers."""
    return max((one.done - one.due for one in fired.outcomes if one.status == 200), default=0.0)


def _in_flight(fired: Fired, at: float) -> int:
    return sum(one.sent <= at < one.done for one in fired.outcomes)


def _no_failures(name: str, row: ServeRow) -> Target:
    num = row.num_failed + row.num_lost + row.num_wrong + row.num_refused
    said = f"{num} of {row.num_requests:,}"
    return Target(name, "0", said, num == 0)
