"""Linear layers on a CPU with weights laid out once for oneDNN's kernels, in the three precisions.

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

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous(), _ROWS_HINT)
        self._bias = bias.to(dtype)

    def __call__(self, rows: Rows) -> Rows:
        """T x K to T x N."""
        return Rows(torch.ops.mkldnn._linear_pointwise(rows.values, self._weight, self._bias, "none", [], ""))


class Int8Linear:
    """Bytes in, bf16 out, summed in int32 (oneDNN: VNNI or AMX)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, zero: int) -> None:
        num_out, num_in = weight.shape
        self._bias, self._zero = bias, zero
        self._scale = (weight.abs().amax(dim=1) / 127).clamp_min(1e-12)
        steps = (weight / self._scale[:, None]).round().to(torch.int8)
        self._weight = torch.ops.onednn.qlinear_prepack(steps, [_ROWS_HINT, num_in])
        self._zero_points = torch.zeros(num_out, dtype=torch.int32)

    def __call__(self, rows: Rows) -> Rows:
        """T x K to T x N."""
        product = torch.ops.onednn.qlinear_pointwise(
            *(rows.values, 1.0, self._zero, self._weight, self._scale, self._zero_points),
            *(None, 1.0, 0, torch.bfloat16, "none", [], ""),
        )
        return Rows(product, rows.scale, self._bias)


def prepare(precision: Precision, weight: torch.Tensor, bias: torch.Tensor, *, after_gelu: bool = False) -> Linear:
    """Lay out a layer of fp32 weights, N x K and N, for rows that come from GELU or not."""
    weight, bias = weight.detach(), bias.detach()
    if precision == "int8":
        return Int8Linear(weight, bias, ZERO_AFTER_GELU if after_gelu else ZERO)
    return FloatLinear(weight, bias, torch.bfloat16 if precision == "bf16" else torch.float32)
