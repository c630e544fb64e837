"""The heads of a bundle on a device: from hidden states and pooled vectors to every head's outputs. Always fp32.

A text head is one linear layer on a pooled vector, with a dense tanh layer of its own before it where the bundle has
`heads.<name>.dense.*` (RoBERTa's classifiers). A token head is one linear layer on the hidden states. An embedding is
the pooled vector itself. Whichever trunk computed the hidden states, this is what reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from models.architecture import Pooling
from models.heads import HeadSpec

_Linear = tuple[torch.Tensor, torch.Tensor]  # weight, bias


@dataclass(frozen=True)
class _Head:
    """What a head reads (None: every token), and its layers."""

    pooling: Pooling | None
    dense: _Linear | None
    linear: _Linear | None

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Rows x D in, rows x C out."""
        if self.dense is not None:
            states = torch.tanh(functional.linear(states, *self.dense))
        return states if self.linear is None else functional.linear(states, *self.linear)


class Readout:
    """All heads of a bundle.

    Raises
    ------
    ValueError : a head's tensor is missing or has another shape than its spec says.
    """

    def __init__(self, specs: Sequence[HeadSpec], tensors: Mapping[str, torch.Tensor], device: torch.device) -> None:
        self._heads = [_build(spec, tensors, device) for spec in specs]
        self.poolings: frozenset[Pooling] = poolings(specs)
        self.reads_every_token = "mean" in self.poolings or any(spec.reads_tokens for spec in specs)

    def __call__(self, hidden_td: torch.Tensor, pooled: Mapping[Pooling, torch.Tensor]) -> list[torch.Tensor]:
        """Outputs of each head: B x C, or T x C of a token head.

        Parameters
        ----------
        hidden_td : the trunk's hidden states.
        pooled : B x D for each of `poolings`.
        """
        read = [hidden_td if head.pooling is None else pooled[head.pooling] for head in self._heads]
        return [head(states.float()) for head, states in zip(self._heads, read, strict=True)]


def poolings(specs: Sequence[HeadSpec]) -> frozenset[Pooling]:
    """The pooled vectors that heads read, all together."""
    return frozenset(spec.pooling for spec in specs if not spec.reads_tokens)


def _build(spec: HeadSpec, tensors: Mapping[str, torch.Tensor], device: torch.device) -> _Head:
    name = f"heads.{spec.name}"
    return _Head(
        pooling=None if spec.reads_tokens else spec.pooling,
        dense=_linear(f"{name}.dense", tensors, device) if f"{name}.dense.weight" in tensors else None,
        linear=None if spec.kind == "embedding" else _linear(name, tensors, device, spec.num_outputs),
    )


def _linear(
    name: str, tensors: Mapping[str, torch.Tensor], device: torch.device, num_outputs: int | None = None
) -> _Linear:
    try:
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    except KeyError as error:
        raise ValueError(f"the weights lack the tensor {error} of a head") from error
    if num_outputs not in (None, len(weight)):
        raise ValueError(f"tensor {name}.weight has {len(weight)} rows, expected one for each of {num_outputs} labels")
    return weight.to(device, torch.float32), bias.to(device, torch.float32)
