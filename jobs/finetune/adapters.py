"""Low-rank adapters on the matrices of a trunk's layers, as they are trained; `models.adapters` merges them at load.

The trunk itself stays as it is. An adapter begins as no change: its `up` is zero.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.utils import parametrize

from models.adapters import DOWN, PREFIX, UP
from models.trunk import Trunk


class LowRank(nn.Module):
    """A matrix plus the product of two narrow ones, in the matrix's own precision."""

    def __init__(self, shape: torch.Size, rank: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(shape[0], rank))
        self.down = nn.Parameter(torch.randn(rank, shape[1]) / math.sqrt(shape[1]))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Same shape in and out."""
        with torch.autocast(weight.device.type, enabled=False):
            return weight + self.up @ self.down


def adapt(trunk: Trunk, rank: int) -> None:
    """Freeze a trunk and give the matrices of its layers something to learn."""
    trunk.requires_grad_(False)
    for module in trunk.layers.modules():
        if isinstance(module, nn.Linear):
            parametrize.register_parametrization(module, "weight", LowRank(module.weight.shape, rank))


def adapter_tensors(trunk: Trunk) -> dict[str, torch.Tensor]:
    """Under a bundle's names."""
    tensors: dict[str, torch.Tensor] = {}
    for name, module in trunk.named_modules():
        if isinstance(module, LowRank):
            place = f"{PREFIX}{name.removesuffix('.parametrizations.weight.0')}"
            tensors |= {place + UP: module.up.detach(), place + DOWN: module.down.detach()}
    return tensors
