"""Inference over HTTP: a JSON body, perhaps with tensors as raw bytes behind it (the binary tensor data extension).

`Inference-Header-Content-Length` says where the JSON ends; the tensors with `binary_data_size` follow in their order.
Bodies may be compressed with gzip or deflate, and are unpacked within the same limit. Answers are never compressed.
"""

from __future__ import annotations

import zlib
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json
from starlette.requests import Request

from serving.errors import RequestError
from serving.v2.infer import InferAnswer, InferRequest, Requested
from serving.v2.tensors import InputTensor, OutputTensor
from serving.web.body import PLAIN, read_body, too_large
from serving.web.messages import parse

JSON_LENGTH = "Inference-Header-Content-Length"
_ENCODINGS = (*PLAIN, "gzip", "deflate")
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS

_Parameters = dict[str, bool | int | float | str]
_Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _Input(_Message):
    name: str
    datatype: str
    shape: list[_Int64]
    parameters: _Parameters = {}
    data: list[Any] | None = None


class _Output(_Message):
    name: str
    parameters: _Parameters = {}


class _Infer(_Message):
    id: str = ""
    parameters: _Parameters = {}
    inputs: list[_Input]
    outputs: list[_Output] = []


class IndexRequest(_Message):
    """What the repository's index is asked for."""

    ready: bool = False


async def read(request: Request, max_bytes: int) -> bytes:
    """Read a whole body and unpack it.

    Raises
    ------
    RequestError : too_large, packed or unpacked; invalid_request if it doesn't unpack; unsupported_media_type.
    """
    body = await read_body(request, max_bytes, _ENCODINGS)
    is_plain = request.headers.get("content-encoding", "identity").lower() in PLAIN
    return body if is_plain else unpack(body, max_bytes)


def unpack(packed: bytes, max_bytes: int) -> bytes:
    """Unpack gzip or zlib, never more than the limit.

    Raises
    ------
    RequestError : too_large; invalid_request.
    """
    unpacker = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        body = unpacker.decompress(packed, max_bytes + 1)
    except zlib.error:
        body = b""
    if len(body) > max_bytes:
        raise too_large(max_bytes)
    if not unpacker.eof or unpacker.unused_data:
        raise RequestError("invalid_request", "doesn't unpack as its content-encoding says", field="body")
    return body


def decode(body: bytes, json_length: str | None) -> InferRequest:
    """Read an inference request.

    Parameters
    ----------
    json_length : value of the header; None: all of the body is JSON.

    Raises
    ------
    RequestError : invalid_json or invalid_request.
    """
    end = _json_length(json_length, len(body))
    asked = parse(body[:end], _Infer)
    return InferRequest(
        _inputs(asked.inputs, memoryview(body)[end:]),
        [Requested(one.name, one.parameters) for one in asked.outputs],
        asked.id,
        asked.parameters,
    )


def encode(answer: InferAnswer, asked: InferRequest) -> tuple[bytes, int | None]:
    """Write an answer: its body, and the length of its JSON if bytes follow."""
    by_name = {one.name: one for one in asked.outputs}
    all_binary = asked.parameters.get("binary_data_output") is True
    parts: list[bytes] = []
    described: list[dict[str, Any]] = []
    for tensor in answer.outputs:
        requested = by_name.get(tensor.name)
        if requested is None or "binary_data" not in requested.parameters:
            is_binary = all_binary
        else:
            is_binary = requested.parameters["binary_data"] is True
        described.append(_describe(tensor, parts, is_binary=is_binary))
    told = {"id": answer.id} if answer.id else {}
    names = {"model_name": answer.model_name, "model_version": answer.model_version}
    text = to_json({**names, **told, "outputs": described}, inf_nan_mode="null")
    return b"".join([text, *parts]), len(text) if parts else None


def _describe(tensor: OutputTensor, parts: list[bytes], *, is_binary: bool) -> dict[str, Any]:
    facts = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
    if not is_binary:
        return {**facts, "data": tensor.to_list()}
    parts.append(tensor.to_bytes())
    return {**facts, "parameters": {"binary_data_size": len(parts[-1])}}


def _json_length(value: str | None, body_length: int) -> int:
    if value is None:
        return body_length
    if not value.isdecimal() or len(value) > 18 or int(value) > body_length:
        raise RequestError("invalid_request", f"must be 0 to the body's {body_length} bytes", field=JSON_LENGTH)
    return int(value)


def _inputs(listed: list[_Input], rest: memoryview) -> list[InputTensor]:
    """Give each input its data, from the JSON or from the bytes behind it, of which none may be left."""
    inputs = []
    for place, one in enumerate(listed):
        data: memoryview | list[Any]
        if (size := one.parameters.get("binary_data_size")) is None:
            data = _json_data(one, place)
        else:
            data, rest = _cut(rest, size, place)
            if one.data is not None:
                raise _twice(place)
        inputs.append(InputTensor(one.name, one.datatype, tuple(one.shape), data, one.parameters))
    if len(rest):
        raise RequestError("invalid_request", f"{len(rest)} bytes stand after the last tensor's", field="body")
    return inputs


def _json_data(given: _Input, place: int) -> list[Any]:
    if given.data is None:
        raise RequestError(
            "invalid_request", "give data, or parameters.binary_data_size and bytes", field=f"inputs[{place}].data"
        )
    return given.data


def _cut(rest: memoryview, size: Any, place: int) -> tuple[memoryview, memoryview]:
    if type(size) is not int or not 0 <= size <= len(rest):
        raise RequestError(
            "invalid_request",
            f"must be 0 to the {len(rest)} bytes that are left",
            field=f"inputs[{place}].parameters.binary_data_size",
        )
    return rest[:size], rest[size:]


def _twice(place: int) -> RequestError:
    return RequestError("invalid_request", "gives its data twice, as JSON and as bytes", field=f"inputs[{place}]")
