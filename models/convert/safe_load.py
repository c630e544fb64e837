"""Pickled checkpoints, read without running what is in them.

Megatron-LM saves its arguments, random states and optimiser beside the weights. torch's weights-only unpickler builds
tensors and plain data; the arguments' `Namespace` is allowed, and for the other classes that Megatron-LM is known to
save an empty stand-in is built, so neither they nor Megatron-LM are ever imported. Any other name in a pickle is
refused, and said. Given up: checkpoints of forks that save classes of their own.
"""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from models.convert.errors import ConversionError

_GLOBAL = re.compile(r"GLOBAL (\S+)")
_DROPPED = (  # data of training that no score depends on
    "_io.BytesIO",  # Transformer Engine's _extra_state
    "fp16.loss_scaler.DynamicLossScaler",
    "fp16.loss_scaler.LossScaler",
    "megatron.core.enums.ModelType",
    "megatron.core.rerun_state_machine.RerunDiagnostic",
    "megatron.core.rerun_state_machine.RerunMode",
    "megatron.core.rerun_state_machine.RerunState",
    "megatron.core.transformer.enums.AttnBackend",
    "megatron.fp16.loss_scaler.DynamicLossScaler",
    "megatron.fp16_deprecated.loss_scaler.DynamicLossScaler",
    "megatron.model.enums.ModelType",
    "megatron.model.enums.PositionEmbeddingType",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "signal.Signals",
)


class StandIn:
    """Built where a checkpoint holds an object that isn't needed; takes any arguments and keeps none."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def load_pickled(path: Path) -> dict[str, Any]:
    """Read a checkpoint file, weights mapped from disk where its format allows.

    Raises
    ------
    ConversionError : it needs a class or function that isn't allowed, is damaged, or holds no dictionary.
    """
    allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        argparse.Namespace,
        *((StandIn, name) for name in _DROPPED),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle can raise anything
        raise ConversionError(refusal(path, error)) from error
    if not isinstance(loaded, dict):
        raise ConversionError(f"{path} must hold a dictionary, got {type(loaded).__name__}")
    return loaded


def refusal(path: Path, error: BaseException) -> str:
    """Say what was wrong with a pickle: the code it asked for, or else that it's damaged."""
    message = str(error) or type(error).__name__
    if forbidden := _GLOBAL.search(message):
        return f"{path} is refused: it asks for {forbidden[1]}; only tensors and plain data are loaded, never code"
    first_line = message.partition("\n")[0]
    return f"{path} can't be read as a checkpoint, it may be damaged or cut short: {first_line}"
