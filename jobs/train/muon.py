"""Muon (Jordan et al. 2024): step along the nearest orthogonal matrix of the momentum.

Five Newton-Schulz steps for all matrices of one shape at once: a batched product keeps a GPU busy where one small
product after another doesn't. They are in bf16 where the machine multiplies it in hardware, else in fp32, since
PyTorch's own products of bf16 are sixty times slower (AVX2). They cost as much as some 1,000 tokens' training at
4 x 256 (NOTES.md), whatever a step's size: large steps pay for them. A matrix that is spread over workers (FSDP) is
gathered whole, and each worker keeps its own part of the result. Given up: sharing that work between the workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from models.forward import DTYPES
from models.precision import choose_precision

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic, steepest at 0 (Jordan et al. 2024)
NUM_STEPS = 5
_SMALLEST_NORM = 1e-7


class Muon(torch.optim.Optimizer):
    """For matrices alone; one learning rate a group."""

    def __init__(self, groups: Iterable[dict[str, Any]], weight_decay: float = 0.0) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Step every matrix that has a gradient."""
        for matrices in self._by_shape():
            whole = torch.stack([_whole(self._direction(matrix)) for matrix, _ in matrices])
            scale = math.sqrt(max(1.0, whole.shape[1] / whole.shape[2]))
            for (matrix, group), way in zip(matrices, orthogonal(whole), strict=True):
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(_like(way, matrix), alpha=-group["lr"] * scale)

    def _by_shape(self) -> Iterator[list[tuple[nn.Parameter, dict[str, Any]]]]:
        alike: dict[torch.Size, list[tuple[nn.Parameter, dict[str, Any]]]] = {}
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike.setdefault(matrix.shape, []).append((matrix, group))
        yield from alike.values()

    def _direction(self, matrix: nn.Parameter) -> torch.Tensor:
        """Nesterov's momentum."""
        state, grad = self.state[matrix], matrix.grad
        assert grad is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        momentum: torch.Tensor = state["momentum_buffer"].lerp_(grad, 1 - MOMENTUM)
        return grad.lerp(momentum, MOMENTUM)


def orthogonal(batch_nij: torch.Tensor) -> torch.Tensor:
    """The nearest (half-)orthogonal matrix of each of N, nearly: singular values come out between 0.7 and 1.2."""
    is_tall = batch_nij.shape[1] > batch_nij.shape[2]
    x = batch_nij.to(DTYPES[choose_precision("auto", on_gpu=batch_nij.is_cuda)])
    x = x.mT if is_tall else x
    x = x / x.flatten(1).norm(dim=1).clamp(min=_SMALLEST_NORM)[:, None, None]
    a, b, c = COEFFICIENTS
    for _ in range(NUM_STEPS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(whole: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """The part of a matrix, known to every worker, that belongs to this one."""
    if not isinstance(matrix, DTensor):
        return whole
    part = distribute_tensor(whole.contiguous(), matrix.device_mesh, matrix.placements, src_data_rank=None)
    return part.to(matrix.dtype)
