"""Megatron's GPT: a decoder with its norms first, learned positions, causal attention and its word vectors as output.

Texts are packed without padding, as in `models.trunk`, and don't see each other. It is GPT-2 but for names:
`models.convert` writes these tensors as a Hugging Face folder that transformers reads as `GPT2LMHeadModel`. GELU has
the tanh form, as in Megatron-LM's fused kernel and in GPT-2. Given up: generation; what reads many texts doesn't write
any.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from models.architecture import Architecture
from models.attention import attend
from models.packing import AttentionGroup, PackedBatch
from models.trunk import Attention


class CausalAttention(Attention):
    """Self-attention of each token to those before it in its text, and to itself."""

    WINDOW = (-1, 0)

    def _products(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, group: AttentionGroup
    ) -> torch.Tensor:
        """Padding stands behind a text, where none of its tokens looks, so no mask is needed."""
        return attend(query, key, value, is_causal=True)


class GptLayer(nn.Module):
    """Attention and feed-forward, each normed first and added to what it was given."""

    def __init__(self, arch: Architecture, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(arch.hidden_size, eps=arch.layer_norm_eps)
        self.attention = CausalAttention(arch)
        self.feed_forward_norm = nn.LayerNorm(arch.hidden_size, eps=arch.layer_norm_eps)
        self.up = nn.Linear(arch.hidden_size, arch.intermediate_size)
        self.down = nn.Linear(arch.intermediate_size, arch.hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_td: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """T x D in and out."""
        hidden_td = hidden_td + self.dropout(self.attention(self.attention_norm(hidden_td), batch))
        inner = functional.gelu(self.up(self.feed_forward_norm(hidden_td)), approximate="tanh")
        added: torch.Tensor = hidden_td + self.dropout(self.down(inner))
        return added


class Gpt(nn.Module):
    """Embeddings, layers, the last norm; the names are those of `models.trunk.Trunk`."""

    def __init__(self, arch: Architecture, dropout: float = 0.0) -> None:
        super().__init__()
        self.arch = arch
        self.word_embeddings = nn.Embedding(arch.vocab_size, arch.hidden_size)
        self.position_embeddings = nn.Embedding(arch.max_position_embeddings, arch.hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(GptLayer(arch, dropout) for _ in range(arch.num_hidden_layers))
        self.norm = nn.LayerNorm(arch.hidden_size, eps=arch.layer_norm_eps)

    def forward(self, batch: PackedBatch) -> torch.Tensor:
        """Hidden states of every token, T x D; times the word vectors they are the logits of the next token."""
        hidden_td = self.dropout(self.word_embeddings(batch.input_ids) + self.position_embeddings(batch.positions))
        for layer in self.layers:
            hidden_td = layer(hidden_td, batch)
        normed: torch.Tensor = self.norm(hidden_td)
        return normed
