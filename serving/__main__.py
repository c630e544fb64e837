"""Serve on this machine: `python -m serving serving/serving.yaml`, until Ctrl-C or SIGTERM.

Starts a Ray of its own unless RAY_ADDRESS names one. On the way out the application is taken down first, which lets
requests in flight finish.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence

from cluster.config import SettingsError, load_config
from cluster.session import session
from serving.settings import HttpSettings, ServingSettings

_LEANER = {  # one event loop a process and gRPC between them: the service's own code never blocks the loop
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
}


def main(arguments: Sequence[str]) -> int:
    """Run until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m serving", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("settings", help="YAML file; serving/serving.yaml shows every key")
    try:
        settings = load_config(parser.parse_args(arguments).settings, (), ServingSettings)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for name, value in _LEANER.items():
        os.environ.setdefault(name, value)
    stop = threading.Event()
    with session():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        _serve(settings, stop)
    return 0


def _serve(settings: ServingSettings, stop: threading.Event) -> None:
    from ray import serve  # noqa: PLC0415 - reads its switches when it is imported

    from serving.app import APP_NAME, build_application  # noqa: PLC0415 - the same

    serve.start(proxy_location="HeadOnly", http_options=_http_options(settings.http))
    try:
        serve.run(build_application(settings), name=APP_NAME)
        scheme = "https" if settings.http.tls_cert else "http"
        sys.stdout.write(f"serving on {scheme}://{settings.http.host}:{settings.http.port}\n")
        sys.stdout.flush()
        stop.wait()
        serve.delete(APP_NAME)
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]


def _http_options(http: HttpSettings) -> dict[str, object]:
    return {"host": http.host, "port": http.port, "ssl_certfile": http.tls_cert, "ssl_keyfile": http.tls_key}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
