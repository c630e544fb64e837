"""`/openapi.json`: FastAPI's description of the REST routes, completed by what it can't know.

Bodies are parsed by hand, and errors come from the edge, so limits, examples, headers of errors and the key are written
in here, from the same settings and the same table of codes that the service obeys. A protocol that describes itself
elsewhere keeps its routes out of the schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fastapi import FastAPI

from serving.errors import HTTP_STATUS
from serving.settings import LimitSettings, ServingSettings
from serving.web.ndjson import MEDIA_TYPE

_ABOUT = (
    "Scores what customers wrote. A text gets the scores here that the scoring job gives it. Every answer that isn't "
    "200 has the form of ErrorAnswer; its request id is that of the X-Request-Id header, which a client may set."
)
_FAULTS = {
    400: ("The body isn't JSON.", "invalid_json", "unexpected end of data: line 1 column 1", "body"),
    401: ("No key, or none that is known.", "unauthenticated", "a valid key is needed", None),
    403: ("The key isn't for this.", "forbidden", "this key is for the models ['starter']", "model"),
    404: ("No such thing.", "not_found", "no model is named 'x'", "model"),
    409: ("Not now, as things stand.", "conflict", "the job hasn't ended", None),
    413: ("More than one request may hold.", "too_large", "texts may hold at most 1024 texts, got 2000", "texts"),
    415: ("A body that isn't taken in this form.", "unsupported_media_type", "send the body uncompressed", None),
    422: ("JSON with a field that doesn't fit.", "invalid_request", "Field required", "texts"),
    429: ("The service is full, or this key's rate is used up.", "overloaded", "the service is full", None),
    500: ("The service failed; its log has the reason.", "internal", "the service failed", None),
    503: ("Nothing is there to answer yet.", "unavailable", "the model has no replica that answers", None),
    504: ("Not ready in time.", "deadline_exceeded", "the answer wasn't ready in time", None),
}
_WAIT = {"description": "Seconds after which to try again.", "schema": {"type": "integer", "minimum": 1}}
_CHALLENGE = {"description": "How to prove who asks.", "schema": {"type": "string", "const": "Bearer"}}
_HEADERS = {401: {"WWW-Authenticate": _CHALLENGE}, 429: {"Retry-After": _WAIT}, 503: {"Retry-After": _WAIT}}
_OPEN = {"/healthz", "/readyz"}
_EXAMPLES: dict[str, Any] = {
    "/v1/score": {"texts": ["Fast delivery, but the battery is poor.", {"id": "r-2", "text": "质量很好"}]},
    "/v1/embeddings": {"input": ["Fast delivery", "质量很好"], "model": "starter"},
    "/v1/jobs": {"texts": ["Fast delivery, but the battery is poor.", {"id": "r-2", "text": "质量很好"}]},
    "/v1/explain": {"text": "Fast delivery, but the battery is poor.", "head": "sentiment", "k": 5},
}
_STATUS = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}


def describe(app: FastAPI, settings: ServingSettings) -> Callable[[], dict[str, Any]]:
    """Give what is to stand in for `app.openapi`."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(plain(), settings)
        return app.openapi_schema

    return openapi


def _complete(schema: dict[str, Any], settings: ServingSettings) -> dict[str, Any]:
    schema["info"]["description"] = _ABOUT
    schema["info"]["license"] = {"name": "Apache-2.0", "identifier": "Apache-2.0"}
    schema["components"]["schemas"]["ErrorBody"]["properties"]["code"]["enum"] = list(HTTP_STATUS)
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
    for path, operation in _operations(schema):
        if "requestBody" not in operation:
            operation["responses"].pop("422", None)  # FastAPI's own, of parameters, which can't be wrong here
        _complete_errors(operation)
        if "requestBody" in operation:
            operation["requestBody"]["content"]["application/json"]["example"] = _EXAMPLES[path]
    _secure(schema, settings)
    _limit(schema["paths"], settings.limits)
    _complete_lines(schema["paths"]["/v1/score"]["post"])
    for path in _OPEN:
        schema["paths"][path]["get"]["responses"]["200"]["content"] = {"application/json": {"schema": _STATUS}}
    schema["paths"]["/metrics"]["get"]["responses"]["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    return schema


def _operations(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for operation in methods.values():
            yield path, operation


def _complete_errors(operation: dict[str, Any]) -> None:
    for status, answer in operation["responses"].items():
        if int(status) not in _FAULTS:
            continue
        about, code, message, field = _FAULTS[int(status)]
        error = {"code": code, "message": message, "field": field, "request_id": "5f0c1d2e3b4a59687786a5b4c3d2e1f0"}
        answer["description"] = about
        answer["content"]["application/json"]["example"] = {"error": error}
        if int(status) in _HEADERS:
            answer["headers"] = _HEADERS[int(status)]


def _secure(schema: dict[str, Any], settings: ServingSettings) -> None:
    """A key is asked for where the settings name a file of keys."""
    if settings.auth.keys_file is None:
        return
    schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operation in _operations(schema):
        if path not in _OPEN:
            operation["security"] = [{"key": []}]


def _limit(paths: dict[str, Any], limits: LimitSettings) -> None:
    """Write the limits of lists and texts into the bodies' schemas."""

    def field(path: str, name: str) -> dict[str, Any]:
        body = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        found: dict[str, Any] = body["properties"][name]
        return found

    for path, name in (("/v1/score", "texts"), ("/v1/embeddings", "input")):
        one_or_many = field(path, name)["anyOf"]
        one_or_many[1]["maxItems"] = limits.max_texts
    for text in field("/v1/embeddings", "input")["anyOf"]:
        text.get("items", text)["maxLength"] = limits.max_text_chars
    field("/v1/explain", "text")["maxLength"] = limits.max_text_chars


def _complete_lines(operation: dict[str, Any]) -> None:
    """NDJSON: what a line is, and where the model stands, as the lines have no place for it."""
    text = {"type": "string"}
    names = {"model": "the model", "version": "its version", "heads": "heads, separated by commas; left out: all"}
    operation["parameters"] = [
        {"name": name, "in": "query", "required": False, "schema": text, "description": f"Of NDJSON only: {about}."}
        for name, about in names.items()
    ]
    lines = '"Fast delivery"\n{"id": "r-2", "text": "质量很好"}\n'
    operation["requestBody"]["content"][MEDIA_TYPE] = {"schema": {}, "example": lines}  # {}: not JSON as a whole
    operation["responses"]["200"]["content"][MEDIA_TYPE] = {"schema": {"type": "string"}}
