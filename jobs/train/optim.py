"""The optimizer of every training: Muon for the layers' matrices, AdamW for the rest; a linear warm-up, a linear fall.

Muon (Jordan et al. 2024) steps along the nearest orthogonal matrix of the momentum. It learns several times as much
from a token as AdamW here (NOTES.md). Embeddings, norms, biases and heads take AdamW. The fall to zero makes the last
steps an average of their own, so no copy of averaged weights is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from jobs.train.muon import Muon

BETAS = (0.9, 0.98)


@dataclass(frozen=True)
class Share:
    """Parameters that learn at `factor` times the full rates: layers' matrices, and the rest."""

    matrices: Sequence[nn.Parameter]
    rest: Sequence[nn.Parameter]
    factor: float = 1.0


def share_of(parameters: Iterable[nn.Parameter], layers: nn.Module, factor: float = 1.0) -> Share:
    """Tell the matrices of the linear layers inside `layers` from other parameters."""
    inside = {id(module.weight) for module in layers.modules() if isinstance(module, nn.Linear)}
    every = list(parameters)
    matrices = [parameter for parameter in every if id(parameter) in inside]
    return Share(matrices, [parameter for parameter in every if id(parameter) not in inside], factor)


class Optimizer:
    """Both optimizers under one roof, with the learning rate of a step."""

    def __init__(
        self, shares: Sequence[Share], learning_rate: float, matrix_learning_rate: float, weight_decay: float = 0.0
    ) -> None:
        rest = [{"params": list(s.rest), "lr": s.factor * learning_rate} for s in shares if s.rest]
        matrices = [{"params": list(s.matrices), "lr": s.factor * matrix_learning_rate} for s in shares if s.matrices]
        parts: list[torch.optim.Optimizer] = []
        if rest:
            parts.append(torch.optim.AdamW(rest, betas=BETAS, eps=1e-6, weight_decay=weight_decay, fused=True))
        if matrices:
            parts.append(Muon(matrices, weight_decay=weight_decay))
        self._parts = parts
        self._rates = [[float(group["lr"]) for group in part.param_groups] for part in parts]

    def step(self, factor: float) -> None:
        """Step with the learning rates times `factor`, and forget the gradients."""
        for part, rates in zip(self._parts, self._rates, strict=True):
            for group, rate in zip(part.param_groups, rates, strict=True):
                group["lr"] = factor * rate
            part.step()
            part.zero_grad(set_to_none=True)

    def state_of(self, parameter: nn.Parameter) -> dict[str, Any]:
        """The live state of one parameter; empty before its first step."""
        own = {id(one): part for part in self._parts for group in part.param_groups for one in group["params"]}
        state: dict[str, Any] = own[id(parameter)].state[parameter]
        return state

    def state_dict(self) -> list[dict[str, Any]]:
        """Plain tensors and numbers, for a checkpoint."""
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """The inverse of `state_dict`."""
        for part, state in zip(self._parts, states, strict=True):
            part.load_state_dict(state)


def rate_at(step: int, num_steps: int, warmup: float) -> float:
    """Factor of the learning rate at a step counted from 0: up over the warm-up, down to 0 just after the last."""
    warmup_steps = max(1, round(warmup * num_steps))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return (num_steps - step) / max(1, num_steps - warmup_steps)
