"""What the protocol tells about the service and its models: metadata, configuration, readiness and the index.

Plain mappings in the form of the protocol's JSON; gRPC's messages have the same fields. Without a version it is told of
the one with the largest share.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Any

from pydantic_core import to_json

from serving.service import Caller, Service, Wanted
from serving.settings import BundleSettings
from serving.v2.infer import INPUT
from serving.v2.outputs import Output, outputs_of

NAME = "verbatim"
PLATFORM = "verbatim_bundle"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository(index)")
_CONFIG_TYPES = {"BYTES": "TYPE_STRING", "BOOL": "TYPE_BOOL", "INT32": "TYPE_INT32", "FP32": "TYPE_FP32"}
_ANY_NUMBER = -1


def server_metadata() -> dict[str, Any]:
    """Name, version and the extensions of the protocol that are spoken."""
    return {"name": NAME, "version": _version(), "extensions": list(EXTENSIONS)}


def _version() -> str:
    try:
        return version_of(NAME)
    except PackageNotFoundError:  # run from a checkout
        return "checkout"


def find(service: Service, caller: Caller, name: str, version: str) -> BundleSettings:
    """Find the version meant.

    Raises
    ------
    RequestError : there is none, or the key isn't for it.
    """
    if not version and name in service.bundles:
        version = max(service.bundles[name], key=lambda one: one.share).version
    return service.choose(caller, Wanted(name, version or None))


async def model_metadata(service: Service, caller: Caller, name: str, version: str) -> dict[str, Any]:
    """Inputs and outputs of a model."""
    model = find(service, caller, name, version)
    outputs = outputs_of(await service.facts_of(model.deployment)).values()
    return {
        "name": name,
        "versions": [one.version for one in service.bundles[name]],
        "platform": PLATFORM,
        "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [_ANY_NUMBER]}],
        "outputs": [{"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in outputs],
    }


async def model_config(service: Service, caller: Caller, name: str, version: str) -> dict[str, Any]:
    """As Triton tells a model's configuration, as far as it has a meaning here; and the labels, and the bundle."""
    facts = await service.facts_of(find(service, caller, name, version).deployment)
    outputs = outputs_of(facts)
    texts = {"bundle": facts.bundle, "max_length": str(facts.max_length), "languages": ",".join(facts.languages)}
    texts |= {f"labels.{one.head}": to_json(one.labels).decode() for one in outputs.values() if one.labels}
    return {
        "name": name,
        "platform": PLATFORM,
        "backend": NAME,
        "max_batch_size": 0,  # the first dimension of every tensor is its own, not a batch's
        "input": [{"name": INPUT, "data_type": _CONFIG_TYPES["BYTES"], "dims": [_ANY_NUMBER]}],
        "output": [_config_of(one) for one in outputs.values()],
        "parameters": {name: {"string_value": text} for name, text in texts.items()},
    }


def _config_of(output: Output) -> dict[str, Any]:
    return {"name": output.name, "data_type": _CONFIG_TYPES[output.datatype], "dims": list(output.shape)}


async def model_ready(service: Service, caller: Caller, name: str, version: str) -> bool:
    """Whether a model answers now, or would wake if asked."""
    return await service.is_model_ready(find(service, caller, name, version))


async def index(service: Service, caller: Caller, *, only_ready: bool) -> list[dict[str, Any]]:
    """All versions of the models that the caller may use."""
    states = [(one, await service.is_model_ready(one)) for one in service.visible(caller)]
    return [
        {
            "name": one.name,
            "version": one.version,
            "state": "READY" if is_ready else "UNAVAILABLE",
            "reason": "" if is_ready else "no replica answers",
        }
        for one, is_ready in states
        if is_ready or not only_ready
    ]
