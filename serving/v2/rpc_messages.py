"""Inference over gRPC: the protocol's messages to requests, and answers to messages.

Tensors come as `raw_input_contents` (all of them or none) or in their typed fields, and go back raw, which is all that
tritonclient reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import DecodeError

from serving.errors import RequestError
from serving.v2.infer import InferAnswer, InferRequest, Requested
from serving.v2.protos import message
from serving.v2.tensors import InputTensor, Parameters

_INFER_RESPONSE = message("ModelInferResponse")


def parse(kind: Any, sent: bytes) -> Any:
    """Read a message.

    Raises
    ------
    RequestError : invalid_request.
    """
    try:
        return kind.FromString(sent)
    except DecodeError:
        raise RequestError("invalid_request", f"the bytes are no {kind.DESCRIPTOR.full_name}") from None


def decode(sent: Any) -> InferRequest:
    """Read a ModelInferRequest.

    Raises
    ------
    RequestError : invalid_request.
    """
    raw: Sequence[bytes] = sent.raw_input_contents
    if raw and len(raw) != len(sent.inputs):
        raise RequestError(
            "invalid_request",
            f"must be one for each of the {len(sent.inputs)} inputs, got {len(raw)}",
            field="raw_input_contents",
        )
    return InferRequest(
        [_input(one, raw[place] if raw else None, place) for place, one in enumerate(sent.inputs)],
        [Requested(one.name, _parameters(one.parameters)) for one in sent.outputs],
        sent.id,
        _parameters(sent.parameters),
    )


def encode(answer: InferAnswer) -> Any:
    """Write a ModelInferResponse."""
    sent = _INFER_RESPONSE(model_name=answer.model_name, model_version=answer.model_version, id=answer.id)
    for tensor in answer.outputs:
        sent.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        sent.raw_output_contents.append(tensor.to_bytes())
    return sent


def _input(sent: Any, raw: bytes | None, place: int) -> InputTensor:
    if raw is not None and sent.HasField("contents"):
        raise RequestError(
            "invalid_request", "must not be given beside raw_input_contents", field=f"inputs[{place}].contents"
        )
    data: bytes | list[bytes] = list(sent.contents.bytes_contents) if raw is None else raw
    return InputTensor(sent.name, sent.datatype, tuple(sent.shape), data, _parameters(sent.parameters))


def _parameters(sent: Any) -> Parameters:
    """By name, without those that have no value."""
    chosen = {name: (one, one.WhichOneof("parameter_choice")) for name, one in sent.items()}
    return {name: getattr(one, field) for name, (one, field) in chosen.items() if field}
