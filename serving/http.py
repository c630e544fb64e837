"""The HTTP application: the edge around the routes of every protocol. Knows no Ray; tests drive it by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from serving import rest
from serving.edge import Edge, ErrorForm, plain_error
from serving.errors import RequestError
from serving.service import Service

_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unsupported_media_type"}


@dataclass(frozen=True)
class HttpProtocol:
    """A protocol's routes, and the form of its errors for paths that begin with `prefix`."""

    prefix: str
    router: APIRouter
    errors_as: ErrorForm


def protocols(service: Service) -> Sequence[HttpProtocol]:
    """All that is spoken. The place to add one."""
    return [HttpProtocol("/", rest.routes(service), plain_error)]


def build_http(service: Service) -> FastAPI:
    """Put the application together."""
    spoken = protocols(service)
    app = FastAPI(title="Verbatim", version="1", docs_url=None, redoc_url=None)
    for protocol in spoken:
        app.include_router(protocol.router)
    by_length = sorted(spoken, key=lambda one: -len(one.prefix))
    app.add_middleware(Edge, metrics=service.metrics, errors_as={one.prefix: one.errors_as for one in by_length})

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> Response:
        message = error.detail if error.status_code in _CODES else "the request can't be read"
        raise RequestError(_CODES.get(error.status_code, "invalid_request"), message) from None

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> Response:
        fault = error.errors()[0]
        raise RequestError("invalid_request", fault["msg"], field=".".join(map(str, fault["loc"]))) from None

    return app
