"""Serve on this machine: `python -m serving serving/serving.yaml`, until Ctrl-C or SIGTERM.

Starts a Ray of its own unless RAY_ADDRESS names one. The ingress listens itself, on the machine of Ray's head; Serve's
proxy isn't started. On the way out the ingress takes no more requests and finishes those in flight, then the
application is taken down.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cluster.config import SettingsError, load_config
from cluster.session import session
from serving.settings import HttpSettings, ServingSettings
from serving.web.listener import bind

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

LEANER = {  # one event loop a process and gRPC between them: the service's own code never blocks the loop
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_LOG_TO_STDERR": "0",  # Ray keeps the log in files; a second time it would cost a tenth of a request
}
_FAREWELL_TAKES_S = 5.0  # beyond the longest request
_ON_HEAD = {"node:__internal_head__": 0.001}  # where `http` and `grpc` mean the addresses that an operator expects


def main(arguments: Sequence[str]) -> int:
    """Run until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m serving", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("settings", help="YAML file; serving/serving.yaml shows every key")
    try:
        settings = _checked(load_config(parser.parse_args(arguments).settings, (), ServingSettings))
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for name, value in LEANER.items():
        os.environ.setdefault(name, value)
    stop = threading.Event()
    with session():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        _serve(settings, stop)
    return 0


def _checked(settings: ServingSettings) -> ServingSettings:
    """The settings with the ingress on the port of `http`, if this machine can have it so.

    Raises
    ------
    SettingsError : what would only come out when somebody asks.
    """
    if settings.ingress.listen is not None:
        raise SettingsError("ingress.listen is for serve run and serve deploy: here give the address under http")
    if settings.jobs is not None and "RAY_ADDRESS" not in os.environ:
        raise SettingsError(
            "jobs: are taken by the dashboard of a Ray that runs already, and the Ray that is started here has none: "
            "run `ray start --head`, set RAY_ADDRESS to it, or leave the section jobs out"
        )
    _check_port(settings.http)
    ingress = settings.ingress
    update = {"listen": settings.http, "resources": ingress.resources or _ON_HEAD}
    return settings.model_copy(update={"ingress": ingress.model_copy(update=update)})


def _check_port(http: HttpSettings) -> None:
    """Ingress replicas share their port, so nothing else would notice that another service has it."""
    try:
        bind(http, shared=False).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(f"http.port {http.port} of {http.host} is taken: choose another") from None


def _serve(settings: ServingSettings, stop: threading.Event) -> None:
    from ray import serve  # noqa: PLC0415 - reads its switches when it is imported

    from serving.app import APP_NAME, build_application  # noqa: PLC0415 - the same

    serve.start(proxy_location="Disabled")
    try:
        ingress = serve.run(build_application(settings), name=APP_NAME)
        scheme = "https" if settings.http.tls_cert else "http"
        sys.stdout.write(f"serving on {scheme}://{settings.http.host}:{settings.http.port}\n")
        sys.stdout.flush()
        stop.wait()
        _leave(ingress, settings.admission.deadline_s)
        serve.delete(APP_NAME)
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]


def _leave(ingress: DeploymentHandle[Any], within_s: float) -> None:
    """Let every ingress replica finish what it has, while all other replicas are still there to answer it."""
    from ray.exceptions import RayError  # noqa: PLC0415 - as above
    from ray.serve.exceptions import RayServeException  # noqa: PLC0415 - as above

    with contextlib.suppress(RayError, RayServeException, TimeoutError):  # then there is nobody to wait for
        ingress._init(_run_router_in_separate_loop=True)  # type: ignore[no-untyped-call]  # here is none to share
        ingress.broadcast("leave").results(timeout_s=within_s + _FAREWELL_TAKES_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
