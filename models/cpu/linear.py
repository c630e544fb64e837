"""Linear layers on a CPU with weights laid out once for oneDNN's kernels, in the three precisions.

Every CPU has all three: where it multiplies no bf16 or no bytes, the same factors are multiplied in fp32. So a set of
scores that was begun on one machine goes on on another; such a precision is as slow as fp32 there.

int8: weights have one scale an output channel, activations one a row, found as they come, so that a text's numbers
don't depend on its neighbours (vector-wise quantisation, Dettmers et al. 2022, section 2.1). The product is handed on
without row scale and bias; the next step over its rows applies both.
"""

from __future__ import annotations

from typing import Protocol

import torch

from models.cpu.rows import ZERO, ZERO_AFTER_GELU, Rows
from models.precision import Precision

_ROWS_HINT = 1024  # the row count for which oneDNN lays the weights out; any other works


class Linear(Protocol):
    """Rows in the precision's own storage in, rows that may lack scale and bias out."""

    def __call__(self, rows: Rows) -> Rows:
        """T x K to T x N."""


class FloatLinear:
    """fp32 or bf16 in and out; summed in fp32 (oneDNN; on AMD 15 % over MKL, PyTorch's choice)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous(), _ROWS_HINT)
        self._bias = None if bias is None else bias.to(dtype)

    def __call__(self, rows: Rows) -> Rows:
        """T x K to T x N."""
        return Rows(torch.ops.mkldnn._linear_pointwise(rows.values, self._weight, self._bias, "none", [], ""))


class Int8Linear:
    """Bytes in, bf16 out, summed in int32 (oneDNN: VNNI or AMX)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, zero: int) -> None:
        num_out, num_in = weight.shape
        self._bias, self._zero = bias, zero
        self._scale, steps = _in_steps(weight)
        self._weight = torch.ops.onednn.qlinear_prepack(steps, [_ROWS_HINT, num_in])
        self._zero_points = torch.zeros(num_out, dtype=torch.int32)

    def __call__(self, rows: Rows) -> Rows:
        """T x K to T x N."""
        product = torch.ops.onednn.qlinear_pointwise(
            *(rows.values, 1.0, self._zero, self._weight, self._scale, self._zero_points),
            *(None, 1.0, 0, torch.bfloat16, "none", [], ""),
        )
        return Rows(product, rows.scale, self._bias)


class WidenedBf16Linear:
    """bf16 in and out where oneDNN has no products of bf16: the same factors in fp32, at fp32's rate.

    A product of two bf16 numbers is exact in fp32, and sums are fp32 everywhere: only their order differs.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self._product = FloatLinear(weight.bfloat16(), bias.bfloat16(), torch.float32)

    def __call__(self, rows: Rows) -> Rows:
        """T x K to T x N."""
        return Rows(self._product(Rows(rows.values.float())).values.bfloat16())


class WidenedInt8Linear:
    """Bytes in, bf16 out on a CPU without VNNI: the same factors in fp32, at fp32's rate.

    oneDNN's own products of bytes run over there (x86 adds pairs of them in 16 bits) or take a thousand times as long.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, zero: int) -> None:
        scale, steps = _in_steps(weight)
        self._product = FloatLinear(scale[:, None] * steps, None, torch.float32)
        self._bias, self._zero = bias, zero

    def __call__(self, rows: Rows) -> Rows:
        """T x K to T x N."""
        product = self._product(Rows(rows.values.float().sub_(self._zero))).values
        return Rows(product.bfloat16(), rows.scale, self._bias)


def prepare(precision: Precision, weight: torch.Tensor, bias: torch.Tensor, *, after_gelu: bool = False) -> Linear:
    """Lay out a layer of fp32 weights, N x K and N, for rows that come from GELU or not."""
    weight, bias = weight.detach(), bias.detach()
    if precision == "int8":
        zero = ZERO_AFTER_GELU if after_gelu else ZERO
        return (Int8Linear if multiplies(precision) else WidenedInt8Linear)(weight, bias, zero)
    if not multiplies(precision):
        return WidenedBf16Linear(weight, bias)
    return FloatLinear(weight, bias, torch.bfloat16 if precision == "bf16" else torch.float32)


def multiplies(precision: Precision) -> bool:
    """Whether oneDNN has this CPU multiply numbers of the precision, and exactly; not whether that is fast.

    bf16 wants AVX512 or AVX-NE-CONVERT, int8 VNNI too.
    """
    if precision == "fp32":
        return True
    has_bf16 = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return has_bf16 and (precision != "int8" or torch.cpu._is_vnni_supported())


def _in_steps(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale (N) of each output channel, and the weights (N x K) in int8 steps of it."""
    scale = (weight.abs().amax(dim=1) / 127).clamp_min(1e-12)
    return scale, (weight / scale[:, None]).round().to(torch.int8)
