"""The measuring process's side of a worker: start it, ask it, end it.

A worker that dies, hangs or answers with a fault raises `WorkerError`, which says what the peer said. Only one worker
is asked at a time unless the caller `send`s to several first.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from jobs.benchmark.contender import Entry

ROOT = Path(__file__).parents[2]
_LOG_LINES = 5
_TIMEOUT_S = 900.0


class WorkerError(RuntimeError):
    """A contender that can't take part, and why."""


class Worker:
    """A contender's process. Use as a context, so that it never outlives the measurement."""

    def __init__(self, entry: Entry, python: Path, threads: int, log: Path) -> None:
        self.entry, self._log = entry, log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own module in an interpreter that the user set up
                [str(python), "-m", "jobs.benchmark.worker", entry.target],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env=_environment(threads),
                bufsize=0,
            )
        self._unread = b""

    def ask(self, **message: Any) -> dict[str, Any]:
        """Send one message and wait for its answer."""
        self.send(**message)
        return self.receive()

    def send(self, **message: Any) -> None:
        """Send one message."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # `receive` finds it dead and says why
            self._process.stdin.write(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        """Wait for the answer to the oldest message.

        Raises
        ------
        WorkerError : the answer is a fault, or there is none.
        """
        answer: dict[str, Any] = json.loads(self._read_line())
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def end(self) -> None:
        """Let the process end; kill it if it doesn't."""
        self.send(do="end")
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()

    def _read_line(self) -> bytes:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(_TIMEOUT_S):
                    self._process.kill()
                    raise WorkerError(f"no answer in {_TIMEOUT_S:g} s")
                part = self._process.stdout.read(1 << 16)
                if not part:
                    raise WorkerError(self._last_words())
                self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _last_words(self) -> str:
        """Why a worker ended, from the end of its log."""
        code = self._process.wait()
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return f"ended with code {code}: " + " / ".join(lines[-_LOG_LINES:])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def _environment(threads: int) -> dict[str, str]:
    """As many threads for all, threads that sleep while others compute, and no look at the network."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
        "KMP_BLOCKTIME": "0",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "true",
        "PYTHONPATH": str(ROOT),
    }
