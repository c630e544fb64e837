"""Processes that a measurement started: which they are, what memory they hold, and their end, each by its id.

Read from /proc, so it also sees what a server starts on its own account (Ray's daemons and workers). A process is known
by its id and the moment it began, so an id that the kernel gave to somebody else is never signalled.
"""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_GOING_TAKES_S = 10.0


@dataclass(frozen=True)
class Process:
    """One process: its id, its parent's, and when it began, in ticks since the machine did."""

    pid: int
    parent: int
    began: int

    @property
    def title(self) -> str:
        """How it calls itself; Ray's workers say what they hold."""
        with suppress(OSError):
            raw = (_PROC / str(self.pid) / "cmdline").read_bytes()
            return raw.replace(b"\0", b" ").decode(errors="replace").strip()
        return ""

    def is_alive(self) -> bool:
        """Whether it still is the process that it was."""
        now = _read(self.pid)
        return now is not None and now.began == self.began


def descendants(pid: int) -> list[Process]:
    """A process and all that stem from it; none if it has ended."""
    processes = [one for entry in _PROC.iterdir() if entry.name.isdigit() and (one := _read(int(entry.name)))]
    children: dict[int, list[Process]] = defaultdict(list)
    for process in processes:
        children[process.parent].append(process)
    found = [process for process in processes if process.pid == pid]
    for process in found:  # grows while it is walked
        found += children[process.pid]
    return found


def own_bytes(processes: Iterable[Process]) -> int:
    """Memory that these hold now, without pages of files and of shared memory, which they have in common."""
    return sum(_own_bytes(process.pid) for process in processes)


def end(processes: Iterable[Process]) -> int:
    """Kill those that still live, and wait for their end; gives how many lived."""
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + _GOING_TAKES_S
    while any(process.is_alive() for process in alive) and time.monotonic() < deadline:
        time.sleep(0.05)
    return len(alive)


def _read(pid: int) -> Process | None:
    """None: no such process, or one that has ended and waits for its parent to notice."""
    with suppress(OSError):
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        if fields[0] not in "ZX":
            return Process(pid, parent=int(fields[1]), began=int(fields[19]))
    return None


def _own_bytes(pid: int) -> int:
    with suppress(OSError):
        resident, shared = (_PROC / str(pid) / "statm").read_text().split()[1:3]
        return (int(resident) - int(shared)) * _PAGE_BYTES
    return 0
