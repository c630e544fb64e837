"""What is pretrained: a trunk with the layers that turn its states into a loss, all inside one forward pass.

The loss is computed inside the module because there, and only there, weights that are spread over workers (FSDP) are
whole. It comes out as sums, since what to divide them by is known only over all workers. Decoders and the binary head
are thrown away in the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from jobs.train.first_weights import initialise
from jobs.train.gpt import Gpt
from jobs.train.word_loss import word_loss
from models.architecture import Architecture
from models.packing import PackedBatch
from models.trunk import Trunk

UNKNOWN_ORDER = -1


@dataclass(frozen=True)
class Inputs:
    """What one forward pass reads.

    `places` (M) says which tokens' states tell the words `targets` (M). With the sentence-order objective `types` (T)
    are 0 and 1, and `orders` (B) is 1 for swapped segments, 0 for those in order, -1 for a text of one segment.
    """

    batch: PackedBatch
    places: torch.Tensor
    targets: torch.Tensor
    types: torch.Tensor | None = None
    orders: torch.Tensor | None = None

    def to(self, device: torch.device) -> Inputs:
        """The same on another device."""
        if device.type == "cpu":
            return self
        return Inputs(
            batch=self.batch.to(device),
            places=_send(self.places, device),
            targets=_send(self.targets, device),
            types=None if self.types is None else _send(self.types, device),
            orders=None if self.orders is None else _send(self.orders, device),
        )


def _send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """To a GPU from pinned memory, so that the copy runs beside what computes there."""
    return tensor.pin_memory().to(device, non_blocking=True)


class MaskedLanguageModel(nn.Module):
    """An encoder that tells hidden words, and where asked the order of two segments (Shoeybi et al. 2019, 5.3)."""

    def __init__(self, arch: Architecture, dropout: float, *, has_order: bool) -> None:
        super().__init__()
        self.trunk = Trunk(arch, dropout, has_pooler=has_order)
        self.transform = nn.Linear(arch.hidden_size, arch.hidden_size)
        self.transform_norm = nn.LayerNorm(arch.hidden_size, eps=arch.layer_norm_eps)
        self.decoder_bias = nn.Parameter(torch.zeros(arch.vocab_size))
        self.order_head = nn.Linear(arch.hidden_size, 2) if has_order else None
        initialise(self, arch.num_hidden_layers)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """(2,) sum of the words' losses, sum of the orders' losses."""
        hidden_td = self.trunk(inputs.batch, inputs.types)
        state_md = self.transform_norm(functional.gelu(self.transform(hidden_td.index_select(0, inputs.places))))
        words = word_loss(state_md, self.trunk.word_embeddings.weight, self.decoder_bias, inputs.targets)
        if self.order_head is None or inputs.orders is None:
            return torch.stack([words, torch.zeros_like(words)])
        logits_bc = self.order_head(self.trunk.pool(hidden_td, inputs.batch)).float()
        orders = functional.cross_entropy(logits_bc, inputs.orders, ignore_index=UNKNOWN_ORDER, reduction="sum")
        return torch.stack([words, orders])


class CausalLanguageModel(nn.Module):
    """A decoder that tells the next word."""

    def __init__(self, arch: Architecture, dropout: float) -> None:
        super().__init__()
        self.trunk = Gpt(arch, dropout)
        initialise(self, arch.num_hidden_layers)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """(2,) sum of the words' losses, and 0."""
        state_md = self.trunk(inputs.batch).index_select(0, inputs.places)
        words = word_loss(state_md, self.trunk.word_embeddings.weight, None, inputs.targets)
        return torch.stack([words, torch.zeros_like(words)])


LanguageModel = MaskedLanguageModel | CausalLanguageModel
