"""The REST routes, as a router over the service. OpenAPI at /openapi.json describes them."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from serving.errors import RequestError
from serving.service import Caller, Scored, Service, Wanted
from serving.settings import BundleSettings
from serving.web import ndjson
from serving.web.answers import results
from serving.web.body import check_length, read_body
from serving.web.edge import request_id_of
from serving.web.messages import (
    EmbeddingsAnswer,
    EmbeddingsRequest,
    ErrorAnswer,
    ExplainAnswer,
    ExplainRequest,
    ModelsAnswer,
    ScoreAnswer,
    ScoreRequest,
    parse,
)
from serving.wire import BundleFacts

_FAULTS = (400, 401, 403, 404, 413, 415, 422, 429, 500, 503, 504)
_ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": ErrorAnswer} for status in _FAULTS}


def caller_of(service: Service, request: Request) -> Caller:
    """Check who asks."""
    return service.identify(request.headers.get("authorization"), request_id_of(request))


def routes(service: Service) -> APIRouter:
    """All REST routes."""
    router = APIRouter()
    limit = service.settings.limits.max_body_bytes

    async def enter(request: Request) -> tuple[Caller, bytes]:
        """Who asks, and what: refused before the body is read where that can be."""
        caller = caller_of(service, request)
        service.admission.check()
        return caller, await read_body(request, limit)

    @router.post("/v1/score", response_model=ScoreAnswer, responses=_ERRORS, openapi_extra=_score_body())
    async def score(request: Request) -> Response:
        """Score one text or many. As `application/x-ndjson`, a text a line in and a result a line out."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() == ndjson.MEDIA_TYPE:
            return _stream(service, request)
        caller, body = await enter(request)
        asked = parse(body, ScoreRequest)
        wanted = Wanted(asked.model, asked.version, None if asked.heads is None else tuple(asked.heads))
        scored = await service.score(caller, wanted, [item.text for item in asked.texts])
        return _json(
            {
                "model": scored.reply.bundle,
                "version": scored.served_by.version,
                "request_id": caller.request_id,
                "num_tokens": scored.num_tokens,
                "results": results(scored, [item.id for item in asked.texts]),
            }
        )

    @router.post(
        "/v1/embeddings", response_model=EmbeddingsAnswer, responses=_ERRORS, openapi_extra=_body(EmbeddingsRequest)
    )
    async def embeddings(request: Request) -> Response:
        """Give texts' vectors, as OpenAI's clients ask for them."""
        caller, body = await enter(request)
        asked = parse(body, EmbeddingsRequest)
        head = await _embedding_head(service, caller, Wanted(asked.model))
        scored = await service.score(caller, Wanted(asked.model, heads=(head,)), asked.input, field="input")
        return _json(_embeddings(scored, head, as_base64=asked.encoding_format == "base64"))

    @router.post("/v1/explain", response_model=ExplainAnswer, responses=_ERRORS, openapi_extra=_body(ExplainRequest))
    async def explain(request: Request) -> Response:
        """Say which words of a text move a score, by leaving out each in turn."""
        caller, body = await enter(request)
        asked = parse(body, ExplainRequest)
        wanted = Wanted(asked.model, asked.version)
        reply = await service.explain(caller, wanted, asked.text, head=asked.head, label=asked.label, num_spans=asked.k)
        answer = asdict(reply)
        version = service.choose(caller, wanted).version
        return _json({"model": answer.pop("bundle"), "version": version, "request_id": caller.request_id, **answer})

    @router.get("/v1/models", response_model=ModelsAnswer, responses=_ERRORS)
    async def models(request: Request) -> Response:
        """Give the models that the caller may use, with their heads, limits and cards."""
        caller = caller_of(service, request)
        facts = await service.facts()
        seen = service.visible(caller)
        return _json({"object": "list", "data": [_model(one, facts[one.deployment]) for one in seen]})

    @router.get("/healthz")
    async def healthz() -> Response:
        """Say that this process answers."""
        return _json({"status": "ok"})

    @router.get("/readyz", responses={503: {"model": ErrorAnswer}})
    async def readyz() -> Response:
        """Say whether every model has a replica that answers."""
        if not await service.is_ready():
            raise RequestError("unavailable", "a model has no replica that answers yet", retry_after_s=1)
        return _json({"status": "ready"})

    @router.get("/metrics", responses={401: {"model": ErrorAnswer}})
    async def metrics(request: Request) -> Response:
        """Give figures in Prometheus' text form."""
        caller_of(service, request)
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


class _TwoWayStream(StreamingResponse):
    """An answer that is sent while its request is still being read.

    Starlette's own waits for a hang-up by reading on, and so would take the body's messages away.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.stream_response(send)


def _stream(service: Service, request: Request) -> Response:
    """NDJSON; model, version and heads stand in the query."""
    caller = caller_of(service, request)
    service.admission.check()
    check_length(request, service.settings.limits.max_stream_bytes)
    query = request.query_params
    heads = tuple(query["heads"].split(",")) if "heads" in query else None
    wanted = Wanted(query.get("model"), query.get("version"), heads)
    service.choose(caller, wanted)
    return _TwoWayStream(ndjson.score_lines(service, caller, wanted, request.stream()), media_type=ndjson.MEDIA_TYPE)


def _json(answer: dict[str, Any]) -> Response:
    return Response(to_json(answer, inf_nan_mode="null"), media_type="application/json")


async def _embedding_head(service: Service, caller: Caller, wanted: Wanted) -> str:
    deployment = service.choose(caller, wanted).deployment
    facts = await service.facts_of(deployment)
    for head in facts.heads:
        if head.kind == "embedding":
            return head.name
    raise RequestError("not_found", f"{facts.bundle} has no embedding head", field="model")


def _embeddings(scored: Scored, head: str, *, as_base64: bool) -> dict[str, Any]:
    """OpenAI's form has no errors of single texts: one is everybody's."""
    for place, fault in sorted(scored.faults.items()):
        raise RequestError("invalid_request", fault.message, field=f"input.{place}")
    vectors = scored.reply.table[head].to_pylist()
    encoded = [base64.b64encode(np.asarray(v, "<f4").tobytes()).decode() for v in vectors] if as_base64 else vectors
    return {
        "object": "list",
        "model": scored.reply.bundle,
        "data": [{"object": "embedding", "index": place, "embedding": v} for place, v in enumerate(encoded)],
        "usage": {"prompt_tokens": scored.num_tokens, "total_tokens": scored.num_tokens},
    }


def _model(settings: BundleSettings, facts: BundleFacts | None) -> dict[str, Any]:
    known = None if facts is None else asdict(facts)
    fields = ("languages", "max_length", "precision", "device", "card")
    return {
        "id": settings.name,
        "object": "model",
        "version": settings.version,
        "share": settings.share,
        "model": known and known["bundle"],
        **{field: known and known[field] for field in fields},
        "heads": known and [{**head, "columns": dict(head["columns"])} for head in known["heads"]],
    }


def _body(model: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI's request body for a body that is parsed by hand."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}


def _score_body() -> dict[str, Any]:
    extra = _body(ScoreRequest)
    extra["requestBody"]["content"][ndjson.MEDIA_TYPE] = {"schema": {"type": "string"}}
    return extra
