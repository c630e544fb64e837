"""A server that the benchmark starts, as its users would, and ends with all that it has started.

Each has a session of its own, so that Ctrl-C reaches the benchmark alone, which then ends them in order: SIGTERM and
time to finish, then SIGKILL to each process that is left, by its id.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from jobs.benchmark.client import ROOT
from jobs.benchmark.serve.errors import ServerError
from jobs.benchmark.serve.options import auth_mode
from jobs.benchmark.serve.processes import Process, descendants, end, own_bytes

_STARTS_IN_S = 240.0
_LEAVES_IN_S = 60.0
_LOG_LINES = 8


@dataclass(frozen=True)
class Launch:
    """How a server is started, where it answers, and a JSON body that it answers with 200 once it is ready."""

    name: str
    command: tuple[str, ...]
    port: int
    path: str
    probe: str
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Server:
    """A running server."""

    launch: Launch
    log: Path
    process: subprocess.Popen[bytes]

    def processes(self) -> list[Process]:
        """The server's process and all that stem from it."""
        return descendants(self.process.pid)

    def own_bytes(self) -> int:
        """Memory that they hold."""
        return own_bytes(self.processes())

    def last_words(self) -> str:
        """The end of its log."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return " / ".join(lines[-_LOG_LINES:])


@contextmanager
def started(launch: Launch, folder: Path) -> Iterator[Server]:
    """Start a server and wait until it answers; it ends with the block.

    Raises
    ------
    ServerError : it doesn't answer in time, or ends.
    """
    log = folder / f"{launch.name}-{launch.port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - commands of ours
            launch.command, cwd=ROOT, env=environment(launch.env), stdout=out, stderr=out, start_new_session=True
        )
    server = Server(launch, log, process)
    try:
        _wait(server)
        yield server
    finally:
        _end(server)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """A Ray of its own, whatever cluster the user works with; authentication stated; no look at the network."""
    around = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    ours = {"RAY_AUTH_MODE": auth_mode(), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    return {**around, **ours, "OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0", "DO_NOT_TRACK": "1", **env}


def _wait(server: Server) -> None:
    deadline = time.monotonic() + _STARTS_IN_S
    while not _answers(server.launch):
        if server.process.poll() is not None:
            raise ServerError(
                f"{server.launch.name} ended with code {server.process.returncode}: {server.last_words()}"
            )
        if time.monotonic() > deadline:
            raise ServerError(f"{server.launch.name} gave no answer in {_STARTS_IN_S:g} s: {server.last_words()}")
        time.sleep(0.5)


def _answers(launch: Launch) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", launch.port, timeout=30)
    try:
        connection.request("POST", launch.path, launch.probe.encode(), {"Content-Type": "application/json"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _end(server: Server) -> None:
    """First gently; whatever then still lives is killed. What has left its parent since is known from before."""
    known = server.processes()
    server.process.send_signal(signal.SIGTERM)
    try:
        server.process.wait(_LEAVES_IN_S)
    except subprocess.TimeoutExpired:
        known += server.processes()
    finally:
        end(known)
        server.process.wait()
