"""Getting a Ray: a running cluster's where one is named, else a local one of our own that ends with the job.

Ray listens on every network interface, a local one too, so a local Ray of ours asks for a token (`RAY_AUTH_MODE=token`;
Ray makes one in ~/.ray) unless the environment says otherwise. On a cluster, mode and token are the cluster's own
affair and are taken from the environment as they are.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._raylet import Config  # type: ignore[attr-defined]

_OBJECT_STORE_BYTES = 1 << 30  # of a local Ray; a unit in flight takes some ten megabytes


@contextmanager
def session(address: str | None = None) -> Iterator[None]:
    """Be connected to a Ray while the block runs.

    Parameters
    ----------
    address : of a running cluster (`auto`, `host:port`, `ray://…`); None takes RAY_ADDRESS, else starts a local Ray
        with all cores that this process may use.

    Raises
    ------
    ConnectionError : no cluster answers at `address`.
    """
    where = address or os.environ.get("RAY_ADDRESS")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if where:
        ray.init(address=where, logging_level=logging.WARNING)
    else:
        _start_local()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own in place, which skips the job's last words
    try:
        yield
    finally:
        ray.shutdown()


def _start_local() -> None:
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # workers without a GPU keep their environment
    Config.initialize("")  # Ray read its switches when it was imported: read them again
    ray.init(
        address="local",
        num_cpus=len(os.sched_getaffinity(0)),
        object_store_memory=_OBJECT_STORE_BYTES,
        include_dashboard=False,
        logging_level=logging.WARNING,
    )
