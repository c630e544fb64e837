"""One run at a time on a set of scores: a lease in the ledger that the holder keeps fresh.

A second run that finds a lease watches it: one that is renewed belongs to a living run, so the second refuses; one
that isn't is taken over. The lease of a process of this machine that has ended is taken over at once, so a resume after
a kill doesn't wait. Clocks are never compared. The lease is a courtesy, not what keeps the scores right: units have
names and bytes that don't depend on who writes them, so two runs that slip through write the same.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cluster.store_errors import StoreNotFound
from cluster.stores import Store

log = logging.getLogger("verbatim.score")

BEAT_S = 4.0
WATCH_S = 3 * BEAT_S


class LeaseError(RuntimeError):
    """Another run holds the set."""


class Lease:
    """Hold the lease at `path` while the `with` block runs.

    Raises
    ------
    LeaseError : on entering, if another run renews its lease; from `check` and `confirm`, if another run has taken it.
    """

    def __init__(self, store: Store, path: str) -> None:
        self._store, self._path = store, path
        self._me = {"owner": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid(), "born": _born("self")}
        self._beat, self._lost = 0, threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._wait_for_free()
        self._put()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._is_mine():
            self._store.delete(self._path)

    def check(self) -> None:
        """Raise `LeaseError` if another run is known to have taken the set over."""
        if self._lost.is_set():
            raise LeaseError(f"another run took over {self._store.uri(self._path)}; this one stops")

    def confirm(self) -> None:
        """Look at the lease itself, then `check`: before anything that only its holder may do."""
        if not self._is_mine():
            self._lost.set()
        self.check()

    def _wait_for_free(self) -> None:
        found = self._read()
        if found is None or _is_dead(found):
            return
        deadline = time.monotonic() + WATCH_S
        while time.monotonic() < deadline:
            time.sleep(BEAT_S / 4)
            now = self._read()
            if now is None:
                return
            if now != found:
                raise LeaseError(
                    f"another run is at work on this set of scores (host {now['host']}, process {now['pid']}; "
                    f"{self._store.uri(self._path)}); wait for it, or choose another output"
                )

    def _renew(self) -> None:
        while not self._stop.wait(BEAT_S):
            try:
                if not self._is_mine():
                    self._lost.set()
                    return
                self._put()
            except OSError as error:  # the store may answer again; `confirm` looks before anything is settled
                log.warning("the lease can't be renewed: %s", error)

    def _is_mine(self) -> bool:
        found = self._read()
        return found is not None and found["owner"] == self._me["owner"]

    def _put(self) -> None:
        self._beat += 1
        self._store.put(self._path, json.dumps({**self._me, "beat": self._beat}).encode())

    def _read(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(self._store.read_bytes(self._path))
        except StoreNotFound:
            return None
        return found


def _is_dead(lease: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended (its number may have a new owner)."""
    return bool(lease["host"] == socket.gethostname() and lease["born"] != _born(str(lease["pid"])))


def _born(pid: str) -> str | None:
    """When a process of this machine started, in the kernel's ticks; None if there is none (or no /proc)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        return None
