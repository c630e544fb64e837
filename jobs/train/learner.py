"""What is trained: the trunk, the masked-language decoder tied to its embeddings, and the heads.

The decoder is computed at hidden positions alone (a third of the tokens) and is thrown away in the bundle. The heads'
loss takes labels as sets of answers that aren't wrong, so a review known only to be positive teaches the stars too.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from jobs.train.sets import HEADS
from models.architecture import Architecture
from models.packing import PackedBatch
from models.trunk import Trunk
from models.weights import to_transformers

INIT_STD = 0.02


class Learner(nn.Module):
    """Trunk, decoder and heads under one roof, so that every stage starts from the one before."""

    def __init__(self, arch: Architecture, dropout: float) -> None:
        super().__init__()
        self.trunk = Trunk(arch, dropout)
        self.transform = nn.Linear(arch.hidden_size, arch.hidden_size)
        self.transform_norm = nn.LayerNorm(arch.hidden_size, eps=arch.layer_norm_eps)
        self.decoder_bias = nn.Parameter(torch.zeros(arch.vocab_size))
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleDict({head.name: nn.Linear(arch.hidden_size, len(head.labels)) for head in HEADS})
        self._initialise()

    def _initialise(self) -> None:
        """Normal weights, those that write into the residual stream scaled by depth (Shoeybi et al. 2019, 5.1)."""
        scale = 1 / math.sqrt(2 * self.trunk.arch.num_hidden_layers)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                writes = name.endswith(("attention.output", "down"))
                nn.init.normal_(module.weight, std=INIT_STD * (scale if writes else 1.0))
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def start_from(self, vectors_vd: torch.Tensor, frequency_v: torch.Tensor) -> None:
        """Take word vectors as embeddings, and log frequencies as what the decoder says knowing nothing."""
        with torch.no_grad():
            self.trunk.word_embeddings.weight.copy_(vectors_vd)
            self.decoder_bias.copy_(frequency_v.log())

    def mlm_loss(self, hidden_td: torch.Tensor, positions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of the true tokens `targets` (M) at the hidden `positions` (M)."""
        state_md = self.transform_norm(functional.gelu(self.transform(hidden_td.index_select(0, positions))))
        logits_mv = functional.linear(state_md, self.trunk.word_embeddings.weight, self.decoder_bias)
        return functional.cross_entropy(logits_mv.float(), targets)

    def head_logits(self, hidden_td: torch.Tensor, batch: PackedBatch) -> list[torch.Tensor]:
        """Logits of every head, each B x C in fp32."""
        pooled_bd = self.dropout(self.trunk.pool(hidden_td, batch)).float()
        return [self.heads[head.name](pooled_bd) for head in HEADS]

    def bundle_tensors(self) -> dict[str, torch.Tensor]:
        """What a bundle keeps, in half precision, under transformers' names."""
        heads = {f"heads.{name}": tensor for name, tensor in self.heads.state_dict().items()}
        tensors = to_transformers(self.trunk) | heads
        return {name: tensor.to(torch.float16).contiguous() for name, tensor in tensors.items()}


def allowed_answers(bits: NDArray[np.uint8], num_labels: int) -> torch.Tensor:
    """(B, C) booleans from (B,) label bits."""
    return torch.from_numpy((bits[:, None] >> np.arange(num_labels)) & 1 == 1)


def allowed_loss(logits_bc: torch.Tensor, allowed_bc: torch.Tensor) -> torch.Tensor:
    """Mean -log of the probability of all allowed answers together, over the texts with any; 0 if there is none."""
    known = allowed_bc.any(dim=1)
    if not bool(known.any()):
        return logits_bc.sum() * 0.0
    log_probs = functional.log_softmax(logits_bc[known], dim=1)
    return -log_probs.masked_fill(~allowed_bc[known], -torch.inf).logsumexp(dim=1).mean()
