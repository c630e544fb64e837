"""From packed token ids to the logits of every head: the two ways a bundle can compute.

`PackedForward` is ours: no padding, all heads off one pass. `models.foreign.TransformersForward` is the fall-back for
families without a packed trunk: transformers' own model over padded rows, the same answers, slower.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from models.architecture import Architecture
from models.bundle import Bundle, BundleError
from models.packing import pack
from models.precision import Precision
from models.weights import load_trunk

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Forward(Protocol):
    """Texts end to end in, logits out."""

    def __call__(self, ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> list[torch.Tensor]:
        """Give the logits, B x C in fp32 on the CPU, of each head for B texts: `ids` (T) end to end, `lengths` (B)."""


def build_forward(bundle: Bundle, precision: Precision, device: torch.device) -> Forward:
    """Choose the forward pass for a bundle, and load it onto a device."""
    if isinstance(bundle.spec.architecture, Architecture):
        return PackedForward(bundle, bundle.spec.architecture, precision, device)
    from models.foreign import TransformersForward  # noqa: PLC0415 - importing transformers takes seconds

    return TransformersForward(bundle, DTYPES[precision], device)


class PackedForward:
    """The packed Megatron-BERT trunk with the bundle's heads. Heads are always fp32."""

    def __init__(self, bundle: Bundle, arch: Architecture, precision: Precision, device: torch.device) -> None:
        tensors = bundle.tensors()
        self._device = device
        self._trunk = load_trunk(arch, tensors).to(device, DTYPES[precision]).eval()
        self._heads = [_head_weights(bundle, tensors, head.name, device) for head in bundle.spec.heads]

    @torch.inference_mode()
    def __call__(self, ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> list[torch.Tensor]:
        """One pass of the trunk, then every head on the pooled vectors."""
        batch = pack(ids, lengths).to(self._device)
        pooled_bd = self._trunk.pool(self._trunk(batch), batch).float()
        return [functional.linear(pooled_bd, weight, bias).cpu() for weight, bias in self._heads]


def _head_weights(
    bundle: Bundle, tensors: dict[str, torch.Tensor], head: str, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        weight, bias = tensors[f"heads.{head}.weight"], tensors[f"heads.{head}.bias"]
    except KeyError as error:
        raise BundleError(f"bundle {bundle.folder} has a head {head!r} but no tensor {error}") from error
    return weight.to(device, torch.float32), bias.to(device, torch.float32)
