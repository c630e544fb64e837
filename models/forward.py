"""From packed token ids to the outputs of every head: the three ways a bundle can compute.

`models.cpu.forward.CpuForward`: our packed trunk with compiled steps between oneDNN's products; CPU only.
`PackedForward`: the same trunk in plain PyTorch: GPUs, and CPUs without a compiler.
`models.foreign.TransformersForward`: the fall-back for families without a packed trunk, transformers' own model over
padded rows. The answers are the same, the speed isn't.
"""

from __future__ import annotations

import logging
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from models.architecture import Architecture
from models.bundle import Bundle, BundleError
from models.cpu.forward import CpuForward
from models.cpu.linear import multiplies
from models.cpu.rows import Steps, load_steps
from models.cpu.trunk import STORED, fits
from models.fp8 import has_fp8, use_fp8
from models.packing import pack
from models.precision import Precision
from models.readout import Readout
from models.trunk import Trunk
from models.weights import load_trunk

log = logging.getLogger("verbatim.models")

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}  # on PyTorch's own operators


class Forward(Protocol):
    """Texts end to end in, outputs of the heads out.

    `first_only`: the last layer computes nothing but each text's first token.
    """

    first_only: bool

    def __call__(self, ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> list[torch.Tensor]:
        """Give each head's outputs for B texts, in fp32 on the trunk's device: `ids` (T) end to end, `lengths` (B).

        B x C logits of a text head, T x C of a token head, B x D vectors of an embedding.
        """


def build_forward(bundle: Bundle, precision: Precision, device: torch.device) -> Forward:
    """Choose the forward pass for a bundle, and load it onto a device.

    Raises
    ------
    BundleError : the bundle's weights aren't those of its architecture and heads.
    ValueError : a precision that this bundle can't have on this device.
    """
    arch = bundle.spec.architecture
    if isinstance(arch, Architecture):
        trunk, readout = _load(bundle, arch, device)
        steps = _cpu_steps(bundle, arch) if device.type == "cpu" and precision in STORED else None
        if steps is not None:
            if precision == "int8" and not multiplies(precision):
                log.warning("no products of bytes (VNNI) on this processor: int8 is computed in fp32, no faster")
            return CpuForward(trunk, readout, steps, precision)
        if precision == "fp8" and has_fp8(device):
            return PackedForward(use_fp8(trunk.to(device, torch.bfloat16)), readout)
        return PackedForward(trunk.to(device, _dtype(precision, bundle, device)), readout)
    from models.foreign import TransformersForward  # noqa: PLC0415 - importing transformers takes seconds

    return TransformersForward(bundle, _dtype(precision, bundle, device), device)


class PackedForward:
    """The packed trunk with the bundle's heads. Heads are always fp32."""

    first_only = False

    def __init__(self, trunk: Trunk, readout: Readout) -> None:
        self._trunk, self._readout = trunk, readout
        weight = trunk.word_embeddings.weight
        self._device, self._is_flash = weight.device, weight.is_cuda and weight.dtype == torch.bfloat16

    @torch.inference_mode()
    def __call__(self, ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> list[torch.Tensor]:
        """One pass of the trunk, then every head."""
        batch = pack(ids, lengths, grouped=not self._is_flash).to(self._device)
        hidden_td = self._trunk(batch)
        pooled = {pooling: self._trunk.pool(hidden_td, batch, pooling) for pooling in self._readout.poolings}
        return self._readout(hidden_td, pooled)


def _cpu_steps(bundle: Bundle, arch: Architecture) -> Steps | None:
    if fits(arch):
        return load_steps()
    log.warning("sizes of bundle %s aren't multiples of 16: it runs on PyTorch's operators, slower", bundle)
    return None


def _load(bundle: Bundle, arch: Architecture, device: torch.device) -> tuple[Trunk, Readout]:
    tensors, heads = bundle.tensors(), bundle.spec.heads
    try:
        readout = Readout(heads, tensors, device)
        return load_trunk(arch, tensors, has_pooler="pooler" in readout.poolings).eval(), readout
    except ValueError as error:
        raise BundleError(f"bundle {bundle.folder}: {error}") from error


def _dtype(precision: Precision, bundle: Bundle, device: torch.device) -> torch.dtype:
    """Of a trunk that runs on PyTorch's own operators."""
    if precision not in DTYPES:
        raise ValueError(
            f"precision {precision} can't be had of bundle {bundle} on {device}: int8 runs on a CPU with a C compiler, "
            "fp8 on an Ada or Hopper GPU, both for families with a packed trunk whose sizes are multiples of 16; "
            f"choose one of {', '.join(DTYPES)}"
        )
    return DTYPES[precision]
