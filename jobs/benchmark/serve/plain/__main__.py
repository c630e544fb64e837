"""`python -m jobs.benchmark.serve.plain HF_FOLDER PORT`: the plain application on a Ray of its own, until SIGTERM."""

from __future__ import annotations

import signal
import sys
import threading

from ray import serve

from cluster.session import session
from jobs.benchmark import machine
from jobs.benchmark.serve.plain.app import build


def main(folder: str, port: int) -> int:
    """Serve until told to stop."""
    stop = threading.Event()
    with session():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        try:
            serve.run(build(folder, machine.num_cores()), name="plain")
            stop.wait()
        finally:
            serve.shutdown()  # type: ignore[no-untyped-call]
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
