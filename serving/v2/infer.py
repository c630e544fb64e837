"""An inference request, whichever way it came: texts out of its tensors, scores into tensors.

The protocol has no errors of single elements, so a text that can't be scored refuses the request and is named. Of the
parameters, `timeout` (microseconds) is obeyed, `binary_data…` belongs to HTTP, those that ask for what isn't served
here (sequences, shared memory, classification) are refused, and all others are ignored, as the protocol allows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from serving.errors import RequestError
from serving.service import Caller, Scored, Service, Wanted
from serving.v2.outputs import Output, outputs_of
from serving.v2.tensors import InputTensor, OutputTensor, Parameters, texts_of
from serving.wire import BundleFacts

INPUT = "text"
_REFUSED = frozenset({"sequence_id", "classification", "shared_memory_region"})
_MAX_TIMEOUT_US = 1 << 40


@dataclass(frozen=True)
class Requested:
    """An output asked for by name."""

    name: str
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True)
class InferRequest:
    """No outputs asked for: all."""

    inputs: Sequence[InputTensor]
    outputs: Sequence[Requested] = ()
    id: str = ""
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True)
class InferAnswer:
    """What goes back, whatever the protocol."""

    model_name: str
    model_version: str
    id: str
    outputs: Sequence[OutputTensor]


async def infer(
    service: Service, caller: Caller, model: str, version: str, asked: InferRequest, *, may_wait: bool = False
) -> InferAnswer:
    """Answer a request; an empty version is chosen by share.

    Raises
    ------
    RequestError : as `Service.score`, or a tensor or parameter that isn't right.
    """
    served = service.choose(caller, Wanted(model, version or None))
    texts = _texts(asked)
    facts = await service.facts_of(served.deployment)
    chosen = _choose(asked.outputs, outputs_of(facts))
    heads = tuple(dict.fromkeys(output.head for output in chosen if output.head is not None))
    wanted = Wanted(model, served.version, heads)
    try:
        async with asyncio.timeout(_timeout_s(asked.parameters)):
            scored = await service.score(caller, wanted, texts, field=INPUT, may_wait=may_wait)
    except TimeoutError:
        raise RequestError("deadline_exceeded", "the answer wasn't ready within the request's timeout") from None
    _refuse_faults(scored)
    return InferAnswer(model, served.version, asked.id, await _read(service, scored, facts, chosen))


def _texts(asked: InferRequest) -> list[str]:
    for place, given in enumerate(asked.inputs):
        if given.name != INPUT:
            raise RequestError(
                "invalid_request", f"the only input is {INPUT!r}, got {given.name!r}", field=f"inputs[{place}].name"
            )
    if len(asked.inputs) != 1:
        raise RequestError(
            "invalid_request", f"there must be one input, {INPUT!r}, got {len(asked.inputs)}", field="inputs"
        )
    (tensor,) = asked.inputs
    _check_parameters(asked.parameters, "parameters")
    _check_parameters(tensor.parameters, "inputs[0].parameters")
    for place, requested in enumerate(asked.outputs):
        _check_parameters(requested.parameters, f"outputs[{place}].parameters")
    if tensor.datatype != "BYTES":
        raise RequestError("invalid_request", f"must be BYTES, got {tensor.datatype!r}", field="inputs[0].datatype")
    if len(tensor.shape) not in (1, 2) or min(tensor.shape) < 0 or tensor.shape[1:] not in ((), (1,)):
        raise RequestError(
            "invalid_request", f"must be [N] or [N, 1], got {list(tensor.shape)[:8]}", field="inputs[0].shape"
        )
    return texts_of(tensor, "inputs[0]")


def _check_parameters(parameters: Parameters, where: str) -> None:
    for name in sorted(_REFUSED & parameters.keys()):
        if parameters[name]:
            raise RequestError("invalid_request", "isn't served here", field=f"{where}.{name}")


def _timeout_s(parameters: Parameters) -> float | None:
    """Seconds; None where none is given, or 0, which the protocol's clients send for none."""
    timeout = parameters.get("timeout", 0)
    if not isinstance(timeout, int) or not 0 <= timeout <= _MAX_TIMEOUT_US:
        raise RequestError(
            "invalid_request", f"must be microseconds, 0 to {_MAX_TIMEOUT_US}", field="parameters.timeout"
        )
    return timeout / 1e6 if timeout else None


def _choose(requested: Sequence[Requested], known: Mapping[str, Output]) -> list[Output]:
    """Those asked for, in their order, or all."""
    names = [one.name for one in requested]
    for place, name in enumerate(names):
        if name not in known:
            raise RequestError("invalid_request", f"must be among {list(known)}", field=f"outputs[{place}].name")
        if name in names[:place]:
            raise RequestError("invalid_request", f"{name} is asked for twice", field=f"outputs[{place}].name")
    return [known[name] for name in names] or list(known.values())


def _refuse_faults(scored: Scored) -> None:
    for place, fault in sorted(scored.faults.items()):
        code = "too_large" if fault.code == "text_too_long" else "invalid_request"
        raise RequestError(code, fault.message, field=f"{INPUT}[{place}]")


async def _read(
    service: Service, scored: Scored, facts: BundleFacts, chosen: Iterable[Output]
) -> Sequence[OutputTensor]:
    """Tensors out of the table. While a bundle is being changed, facts and answer may be of different ones."""
    table = scored.reply.table
    if scored.reply.bundle != facts.bundle:
        await service.facts()
    if not {name for output in chosen for name in output.columns} <= set(table.column_names):
        raise RequestError("unavailable", "the model is being changed: ask again", retry_after_s=1)
    return [output.read(table) for output in chosen]
