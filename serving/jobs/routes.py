"""The REST routes of asynchronous jobs. Where the settings have no jobs every one of them says so with 404."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic_core import to_json

from serving.errors import RequestError
from serving.jobs.cluster import Cluster, RayCluster
from serving.jobs.desk import Desk
from serving.jobs.messages import JobAnswer, JobRequest
from serving.service import Service
from serving.web import ndjson
from serving.web.body import read_body
from serving.web.messages import ErrorAnswer, parse
from serving.web.rest import caller_of

PREFIX = "/v1/jobs"
_ASKING: dict[int | str, dict[str, Any]] = {status: {"model": ErrorAnswer} for status in (401, 404, 500, 503)}
_HANDING_IN = _ASKING | {status: {"model": ErrorAnswer} for status in (400, 403, 413, 415, 422, 429)}
_CONFLICT: dict[int | str, dict[str, Any]] = {409: {"model": ErrorAnswer}}
_LINES: dict[int | str, dict[str, Any]] = {200: {"content": {ndjson.MEDIA_TYPE: {"schema": {"type": "string"}}}}}


def routes(service: Service, cluster: Cluster | None = None) -> APIRouter:
    """All routes; the cluster is the settings' unless one is given."""
    settings = service.settings.jobs
    router = APIRouter(prefix=PREFIX, include_in_schema=settings is not None)
    found = None if settings is None else Desk(service, settings, cluster or RayCluster(settings.dashboard))

    def desk() -> Desk:
        if found is None:
            raise RequestError(
                "not_found", "there are no jobs here; an operator turns them on with jobs: in the settings"
            )
        return found

    @router.post("", status_code=202, response_model=JobAnswer, responses=_HANDING_IN, openapi_extra=_body())
    async def submit(request: Request) -> Response:
        """Hand in texts or a corpus; the answer says under which id to ask for it."""
        caller = caller_of(service, request)
        service.admission.check()
        asked = parse(await read_body(request, service.settings.limits.max_body_bytes), JobRequest)
        job = await desk().submit(caller, asked)
        return _json(job, 202, {"Location": f"{PREFIX}/{job['id']}"})

    @router.get("/{id}", response_model=JobAnswer, responses=_ASKING)
    async def status(request: Request, id: str) -> Response:
        """Say how a job stands, with its manifest once it has succeeded."""
        return _json(await desk().status(caller_of(service, request), id))

    @router.get("/{id}/results", responses=_ASKING | _CONFLICT | _LINES, response_class=Response)
    async def results(request: Request, id: str) -> Response:
        """Give a list's results in its order as NDJSON: place, id if one was sent, and what /v1/score gives a text."""
        found = await desk().results(caller_of(service, request), id)
        lines = b"".join(to_json(one, inf_nan_mode="null") + b"\n" for one in found)
        return Response(lines, media_type=ndjson.MEDIA_TYPE)

    @router.delete("/{id}", response_model=JobAnswer, responses=_ASKING)
    async def cancel(request: Request, id: str) -> Response:
        """End a job; one that has ended stays as it is."""
        return _json(await desk().cancel(caller_of(service, request), id))

    return router


def _json(answer: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(answer, inf_nan_mode="null"), status, headers, "application/json")


def _body() -> dict[str, Any]:
    schema = JobRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    corpus = schema.pop("$defs")["Corpus"]
    schema["properties"] |= {"texts": schema["properties"]["texts"]["anyOf"][0], "corpus": corpus}  # null is neither
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
