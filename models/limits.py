"""The machine's own limit: how many operations a second its matrix products reach at a trunk's shapes.

Measured where the scoring runs, with the same threads and precision, so that a run can say which share of the possible
it got. A tenth of a second's measurement on a shared machine is worth about 10 %; `jobs.benchmark` measures it well.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.nn import functional

from models.architecture import Architecture, ForeignArchitecture
from models.cpu.linear import multiplies
from models.forward import DTYPES
from models.precision import Precision

_ROWS = 2048
_REPEATS = 8


def matmul_flops_per_s(
    arch: Architecture | ForeignArchitecture, precision: Precision, device: str = "cpu"
) -> float | None:
    """Best of some products (2048 x D) @ (D x F) of the trunk's feed-forward; None if its sizes aren't known.

    fp8 is held against the limit of bf16.
    """
    if isinstance(arch, ForeignArchitecture):
        return None
    dtype = torch.int8 if precision == "int8" else DTYPES.get(precision, torch.bfloat16)
    if device == "cpu" and not multiplies(precision):
        dtype = torch.float32  # in which such a machine computes it
    left = torch.randn(_ROWS, arch.hidden_size, device=device).to(dtype)
    right = torch.randn(arch.intermediate_size, arch.hidden_size, device=device).to(dtype)
    best_s = min(_seconds(product, left) for product in _products(right) for _ in range(_REPEATS))
    return 2 * _ROWS * arch.hidden_size * arch.intermediate_size / best_s


def _products(right: torch.Tensor) -> list[Callable[[torch.Tensor], object]]:
    """The libraries' products that could be the fastest: PyTorch's choice, and for fp32 on a CPU oneDNN's too."""
    if right.dtype == torch.int8:
        return [lambda left: torch._int_mm(left, right.t())]
    products: list[Callable[[torch.Tensor], object]] = [lambda left: functional.linear(left, right)]
    if right.dtype == torch.float32 and right.device.type == "cpu":
        laid_out = torch.ops.mkldnn._reorder_linear_weight(right, _ROWS)
        products.append(lambda left: torch.ops.mkldnn._linear_pointwise(left, laid_out, None, "none", [], ""))
    return products


def _seconds(product: Callable[[torch.Tensor], object], left: torch.Tensor) -> float:
    began = time.perf_counter()
    product(left)
    if left.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began
