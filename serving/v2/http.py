"""The Open Inference Protocol over HTTP: routes under /v2, and its form of errors, with Triton's statuses.

Readiness is a status, 200 or 400, with a body that says the same. What isn't served (loading, statistics, traces,
shared memory) is 404. The protocol's own published OpenAPI describes these routes, so ours leaves them out.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic_core import to_json

from serving.errors import RequestError
from serving.service import Caller, Service
from serving.v2 import body, models
from serving.v2.infer import infer
from serving.web.edge import error_headers, request_id_of
from serving.web.messages import parse

PREFIX = "/v2"
_INVALID = 400  # Triton's status of every argument that isn't right
_MODEL = ("/models/{name}", "/models/{name}/versions/{version}")


def error_form(refused: RequestError, request_id: str) -> Response:
    """The protocol's form: {error: "field: what is wrong"}."""
    status = _INVALID if refused.code == "invalid_request" else refused.status
    return Response(to_json({"error": message_of(refused)}), status, error_headers(refused), "application/json")


def message_of(refused: RequestError) -> str:
    """One line: the field, if there is one, and what is wrong with it."""
    return f"{refused.field}: {refused.message}" if refused.field else refused.message


def routes(service: Service) -> APIRouter:
    """All routes."""
    router = APIRouter(prefix=PREFIX, include_in_schema=False)
    limit = service.settings.limits.max_body_bytes

    def caller_of(request: Request) -> Caller:
        return service.identify(request.headers.get("authorization"), request_id_of(request))

    @router.get("")
    async def server(request: Request) -> Response:
        caller_of(request)
        return _json(models.server_metadata())

    @router.get("/health/live")
    async def live() -> Response:
        return _json({"live": True})

    @router.get("/health/ready")
    async def ready() -> Response:
        return _readiness({}, await service.is_ready())

    @router.get(_MODEL[0])
    @router.get(_MODEL[1])
    async def metadata(request: Request, name: str, version: str = "") -> Response:
        return _json(await models.model_metadata(service, caller_of(request), name, version))

    @router.get(f"{_MODEL[0]}/config")
    @router.get(f"{_MODEL[1]}/config")
    async def config(request: Request, name: str, version: str = "") -> Response:
        return _json(await models.model_config(service, caller_of(request), name, version))

    @router.get(f"{_MODEL[0]}/ready")
    @router.get(f"{_MODEL[1]}/ready")
    async def model_ready(request: Request, name: str, version: str = "") -> Response:
        return _readiness({"name": name}, await models.model_ready(service, caller_of(request), name, version))

    @router.post("/repository/index")
    async def index(request: Request) -> Response:
        caller = caller_of(request)
        asked = parse(await body.read(request, limit) or b"{}", body.IndexRequest)
        return _json(await models.index(service, caller, only_ready=asked.ready))

    @router.post(f"{_MODEL[0]}/infer")
    @router.post(f"{_MODEL[1]}/infer")
    async def infer_(request: Request, name: str, version: str = "") -> Response:
        caller = caller_of(request)
        service.admission.check()
        asked = body.decode(await body.read(request, limit), request.headers.get(body.JSON_LENGTH))
        answer, json_length = body.encode(await infer(service, caller, name, version, asked), asked)
        return _tensors(answer, json_length)

    return router


def _json(answer: Any) -> Response:
    return Response(to_json(answer), media_type="application/json")


def _readiness(facts: dict[str, Any], is_ready: bool) -> Response:
    return Response(to_json({**facts, "ready": is_ready}), 200 if is_ready else _INVALID, media_type="application/json")


def _tensors(answer: bytes, json_length: int | None) -> Response:
    if json_length is None:
        return Response(answer, media_type="application/json")
    return Response(answer, headers={body.JSON_LENGTH: str(json_length)}, media_type="application/octet-stream")
