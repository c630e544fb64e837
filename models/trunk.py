"""The Megatron-BERT trunk over packed tokens: pre-LN transformer layers on a T x D matrix of real tokens only.

Same numbers as transformers' `MegatronBertModel` on the same weights (fp32, 1e-5), without its padding. One set of
modules serves scoring and training; dropout is on in training alone. Given up: dropout of attention weights, for which
no fused CPU kernel exists. Shape suffixes: T tokens packed, D hidden, H heads, G texts of an attention group, S its
padded length.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from models.architecture import Architecture
from models.packing import AttentionGroup, PackedBatch


class Attention(nn.Module):
    """Self-attention inside each text; query, key and value come out of one matrix product."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.num_heads, self.head_dim = arch.num_attention_heads, arch.head_dim
        self.qkv = nn.Linear(arch.hidden_size, 3 * arch.hidden_size)
        self.output = nn.Linear(arch.hidden_size, arch.hidden_size)

    def forward(self, hidden_td: torch.Tensor, groups: tuple[AttentionGroup, ...]) -> torch.Tensor:
        """T x D in and out; texts don't see each other."""
        qkv = self.qkv(hidden_td)
        if len(groups) == 1 and groups[0].mask is None:
            return self._project(self._attend(qkv, groups[0]))
        parts = [self._attend(qkv.index_select(0, g.slots), g).index_select(0, g.real) for g in groups]
        # Groups are runs of the batch in its order, so their tokens end to end are the batch again.
        return self._project(torch.cat(parts))

    def _attend(self, qkv: torch.Tensor, group: AttentionGroup) -> torch.Tensor:
        shape = (group.num_texts, group.length, 3, self.num_heads, self.head_dim)
        query, key, value = qkv.view(shape).permute(2, 0, 3, 1, 4)  # each (G, H, S, D/H)
        context = functional.scaled_dot_product_attention(query, key, value, attn_mask=group.mask)
        return context.transpose(1, 2).reshape(group.num_texts * group.length, -1)

    def _project(self, context_td: torch.Tensor) -> torch.Tensor:
        return self.output(context_td)  # type: ignore[no-any-return]


class Layer(nn.Module):
    """One pre-LN transformer layer: x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, arch: Architecture, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(arch.hidden_size, eps=arch.layer_norm_eps)
        self.attention = Attention(arch)
        self.feed_forward_norm = nn.LayerNorm(arch.hidden_size, eps=arch.layer_norm_eps)
        self.up = nn.Linear(arch.hidden_size, arch.intermediate_size)
        self.down = nn.Linear(arch.intermediate_size, arch.hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_td: torch.Tensor, groups: tuple[AttentionGroup, ...]) -> torch.Tensor:
        """T x D in and out."""
        hidden_td = hidden_td + self.dropout(self.attention(self.attention_norm(hidden_td), groups))
        inner = functional.gelu(self.up(self.feed_forward_norm(hidden_td)))
        return hidden_td + self.dropout(self.down(inner))  # type: ignore[no-any-return]


class Trunk(nn.Module):
    """Embeddings, layers, final norm and pooler."""

    def __init__(self, arch: Architecture, dropout: float = 0.0) -> None:
        super().__init__()
        self.arch = arch
        self.word_embeddings = nn.Embedding(arch.vocab_size, arch.hidden_size)
        self.position_embeddings = nn.Embedding(arch.max_position_embeddings, arch.hidden_size)
        self.token_type_embeddings = nn.Embedding(arch.type_vocab_size, arch.hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(arch, dropout) for _ in range(arch.num_hidden_layers))
        self.norm = nn.LayerNorm(arch.hidden_size, eps=arch.layer_norm_eps)
        self.pooler = nn.Linear(arch.hidden_size, arch.hidden_size)

    def forward(self, batch: PackedBatch) -> torch.Tensor:
        """Hidden states of every token, T x D, after the final norm."""
        hidden_td = self.word_embeddings(batch.input_ids) + self.position_embeddings(batch.positions)
        hidden_td = self.dropout(hidden_td + self.token_type_embeddings.weight[0])
        for layer in self.layers:
            hidden_td = layer(hidden_td, batch.groups)
        return self.norm(hidden_td)  # type: ignore[no-any-return]

    def pool(self, hidden_td: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """One vector a text, B x D: the first token's state through the pooler, as BERT does it."""
        return torch.tanh(self.pooler(hidden_td.index_select(0, batch.starts)))
