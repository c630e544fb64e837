"""The workers of a run as one of them sees them: which it is, how many there are, and what they tell each other.

One process alone is a crew of one and needs neither Ray nor a process group. With `none` every worker holds the whole
model and gradients are averaged while they are computed; with `fsdp` (torch's FSDP2) each holds a part of every tensor
and a layer is gathered whole just before it computes. Both give the same numbers. Given up under `fsdp`: bf16 on the
wire; the weights travel in fp32, so that they do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from jobs.train.networks import Inputs, LanguageModel

Sharding = Literal["none", "fsdp"]


@dataclass(frozen=True)
class Crew:
    """This worker's place and device."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all workers, at every one of them."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def agree(self, flag: bool) -> bool:
        """What the first worker says."""
        if self.size == 1:
            return flag
        said = torch.tensor([float(flag)], device=self.device)
        distributed.broadcast(said, 0)
        return bool(said.item())

    def wait(self) -> None:
        """Until all are here."""
        self.sum(torch.zeros(1, device=self.device))


class Spread:
    """A model spread over a crew: its forward pass, and when gradients are summed."""

    def __init__(self, model: LanguageModel, crew: Crew, sharding: Sharding) -> None:
        self.model = model.to(crew.device)
        self._network: nn.Module = self.model
        if sharding == "fsdp" and crew.size > 1:
            for layer in self.model.trunk.layers:
                fully_shard(layer)
            fully_shard(self.model)
        elif crew.size > 1:
            self._network = DistributedDataParallel(self.model, gradient_as_bucket_view=True)

    def __call__(self, inputs: Inputs) -> torch.Tensor:
        """The sums of the losses of one pass."""
        sums: torch.Tensor = self._network(inputs)
        return sums

    def clip(self, largest: float) -> float:
        """Scale gradients down to a norm; the norm they had."""
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), largest)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    @contextlib.contextmanager
    def syncing(self, is_last: bool) -> Iterator[None]:
        """Of a step's passes only the last one's backward sums gradients over the workers."""
        if isinstance(self._network, FSDPModule):
            self._network.set_requires_gradient_sync(is_last)
        is_held = isinstance(self._network, DistributedDataParallel) and not is_last
        with self._network.no_sync() if is_held else contextlib.nullcontext():  # type: ignore[operator]
            yield
