"""The HTTP application: the edge around the routes of every protocol. Knows no Ray; tests drive it by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

from serving.console import routes as console
from serving.errors import RequestError
from serving.jobs import routes as jobs
from serving.jobs.cluster import Cluster
from serving.service import Service
from serving.v2 import http as v2
from serving.v2 import rpc
from serving.web import rest
from serving.web.edge import Edge, ErrorForm, plain_error
from serving.web.listener import Listener
from serving.web.openapi import describe

_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unsupported_media_type"}


@dataclass(frozen=True)
class HttpProtocol:
    """A protocol's routes, and the form of its errors for paths that begin with `prefix`."""

    prefix: str
    router: APIRouter
    errors_as: ErrorForm


def protocols(service: Service, cluster: Cluster | None) -> Sequence[HttpProtocol]:
    """All that is spoken. The place to add one."""
    return [
        HttpProtocol("/", rest.routes(service), plain_error),
        HttpProtocol(jobs.PREFIX, jobs.routes(service, cluster), plain_error),
        HttpProtocol(v2.PREFIX, v2.routes(service), v2.error_form),
    ]


def build_http(service: Service, cluster: Cluster | None = None, listener: Listener | None = None) -> FastAPI:
    """Put the application together; jobs run on the cluster that the settings name, unless one is given.

    With a listener the application brings its own port; without, somebody else hands it requests.
    """
    spoken = protocols(service, cluster)
    app = FastAPI(title="Verbatim", version="1", docs_url=None, redoc_url=None, lifespan=_lifespan(service, listener))
    routers = [*(protocol.router for protocol in spoken), console.routes()]
    routes = [route for router in routers for route in router.routes]
    for router in routers:
        app.include_router(router)
    app.openapi = describe(app, service.settings)  # type: ignore[method-assign]
    by_length = sorted(spoken, key=lambda one: -len(one.prefix))
    app.add_middleware(
        Edge,
        metrics=service.metrics,
        errors_as={one.prefix: one.errors_as for one in by_length},
        express=_express(routes),
    )

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> Response:
        message = error.detail if error.status_code in _CODES else "the request can't be read"
        refused = RequestError(_CODES.get(error.status_code, "invalid_request"), message)
        refused.allow = _methods(routes, request) if error.status_code == 405 else None
        raise refused from None

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> Response:
        fault = error.errors()[0]
        raise RequestError("invalid_request", fault["msg"], field=".".join(map(str, fault["loc"]))) from None

    return app


def _express(routes: Sequence[BaseRoute]) -> dict[tuple[str, str], APIRoute]:
    """Routes that take texts: nothing in their path, and of the request they read all themselves."""
    own = [route for route in routes if isinstance(route, APIRoute) and "{" not in route.path]
    return {("POST", route.path): route for route in own if route.methods == {"POST"}}


def _lifespan(service: Service, listener: Listener | None) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Ports are open while the application lives."""

    @asynccontextmanager
    async def live(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if service.settings.grpc is not None:
                await stack.enter_async_context(rpc.served(service, service.settings.grpc))
            if listener is not None:
                await stack.enter_async_context(listener.serving(app))
            yield

    return live


def _methods(routes: Sequence[BaseRoute], request: Request) -> str:
    """All methods of a path; Starlette itself tells those of the first route that has it."""
    found = [route for route in routes if route.matches(request.scope)[0] is Match.PARTIAL]
    return ", ".join(sorted({method for route in found for method in getattr(route, "methods", ())}))
