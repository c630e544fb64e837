"""One shard of a Megatron-LM checkpoint: its tensors under their own names, and what it says of itself."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.convert.errors import ConversionError
from models.convert.safe_load import StandIn, load_pickled

VERSIONS = (0.0, 1.0, 2.0, 3.0)


@dataclass(frozen=True)
class Shard:
    """`label` is how messages call it; `arguments` are the training run's, empty in the oldest checkpoints."""

    label: str
    version: float
    iteration: int | None
    arguments: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]


def load_shard(path: Path) -> Shard:
    """Read one `model_optim_rng.pt`.

    Raises
    ------
    ConversionError : it can't be read safely, holds no model, or is of an unknown version.
    """
    state = load_pickled(path)
    model = state.get("model")
    if not isinstance(model, Mapping):
        raise ConversionError(f"{path} has no dictionary 'model', got keys {sorted(map(str, state))}")
    return Shard(
        label=path.parent.name,
        version=version_of(state, path),
        iteration=state.get("iteration"),
        arguments=arguments_of(state),
        tensors=dict(_flatten(model, "")),
    )


def version_of(state: Mapping[str, Any], path: Path) -> float:
    """The version decides in which order query, key and value are fused; the oldest checkpoints name none."""
    version = state.get("checkpoint_version", 0)
    if version not in VERSIONS:
        raise ConversionError(f"{path}: checkpoint_version {version!r} isn't known; {VERSIONS} are")
    return float(version)


def arguments_of(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `args` namespace as a mapping, without values of classes that weren't loaded."""
    arguments = state.get("args")
    if not isinstance(arguments, argparse.Namespace):
        return {}
    return {name: value for name, value in vars(arguments).items() if not isinstance(value, StandIn)}


def _flatten(nested: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors under dotted names, whether the dictionaries are nested (`language_model`) or flat (Megatron-Core)."""
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, torch.Tensor):
            yield f"{prefix}{key}", value
