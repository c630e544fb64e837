"""The weights that whatever is trained begins with, where no earlier model gives any."""

from __future__ import annotations

import math

from torch import nn

INIT_STD = 0.02


def initialise(module: nn.Module, num_layers: int) -> None:
    """Normal weights, those that write into the residual stream scaled by depth (Shoeybi et al. 2019, 5.1)."""
    scale = 1 / math.sqrt(2 * num_layers)
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            writes = name.endswith(("attention.output", "down"))
            nn.init.normal_(part.weight, std=INIT_STD * (scale if writes else 1.0))
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
