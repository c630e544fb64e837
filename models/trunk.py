"""The packed trunk: transformer layers on a T x D matrix of real tokens only, for the four families people have.

Same numbers as transformers' models on the same weights (fp32, 1e-5), without their padding. One set of modules serves
scoring and training; dropout is on in training alone. What sets Megatron-BERT, BERT and RoBERTa apart is data of the
`Architecture`; a norm that a family doesn't have is an `nn.Identity`. Given up: dropout of attention weights, for which
no fused CPU kernel exists. Shape suffixes: B texts, T tokens packed, D hidden, H heads, G texts of an attention group,
S its padded length.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from models.architecture import Architecture, Pooling
from models.attention import attend
from models.packing import AttentionGroup, PackedBatch
from models.pooling import pool


class Attention(nn.Module):
    """Self-attention inside each text; query, key and value come out of one matrix product."""

    WINDOW = (-1, -1)  # tokens that each sees before and after itself: all

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.num_heads, self.head_dim = arch.num_attention_heads, arch.head_dim
        self.qkv = nn.Linear(arch.hidden_size, 3 * arch.hidden_size)
        self.output = nn.Linear(arch.hidden_size, arch.hidden_size)

    def forward(self, hidden_td: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """T x D in and out; texts don't see each other."""
        qkv, groups = self.qkv(hidden_td), batch.groups
        if not groups:
            return self._project(self._attend_ragged(qkv, batch))
        # Groups are runs of the batch in its order, so their tokens end to end are the batch again.
        runs = qkv.split([group.num_tokens for group in groups])
        return self._project(torch.cat([self._attend_run(run, group) for run, group in zip(runs, groups, strict=True)]))

    def _attend_ragged(self, qkv: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Flash attention over ragged texts: CUDA, bf16."""
        from torch.nn.attention import varlen  # noqa: PLC0415 - brings torch's compiler, 1.4 s of every start elsewhere

        query, key, value = qkv.view(batch.num_tokens, 3, self.num_heads, self.head_dim).unbind(1)
        longest = batch.longest
        bounds, window = batch.bounds, self.WINDOW
        context = varlen.varlen_attn(query, key, value, bounds, bounds, longest, longest, window_size=window)
        assert isinstance(context, torch.Tensor)
        return context.reshape(batch.num_tokens, -1)

    def _attend_run(self, qkv: torch.Tensor, group: AttentionGroup) -> torch.Tensor:
        if group.mask is None:
            return self._attend(qkv, group)
        return self._attend(qkv.index_select(0, group.slots), group).index_select(0, group.real)

    def _attend(self, qkv: torch.Tensor, group: AttentionGroup) -> torch.Tensor:
        shape = (group.num_texts, group.length, 3, self.num_heads, self.head_dim)
        query, key, value = qkv.view(shape).permute(2, 0, 3, 1, 4)  # each (G, H, S, D/H)
        context = self._products(query, key, value, group)
        return context.transpose(1, 2).reshape(group.num_texts * group.length, -1)

    def _products(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, group: AttentionGroup
    ) -> torch.Tensor:
        """Each (G, H, S, D/H), the result as well."""
        return attend(query, key, value, group.mask)

    def _project(self, context_td: torch.Tensor) -> torch.Tensor:
        return self.output(context_td)  # type: ignore[no-any-return]


class Layer(nn.Module):
    """One transformer layer, pre-LN or post-LN: attention and feed-forward, each added to what it was given."""

    def __init__(self, arch: Architecture, dropout: float) -> None:
        super().__init__()
        self.norm_first = arch.norm_first
        self.attention_norm = nn.LayerNorm(arch.hidden_size, eps=arch.layer_norm_eps)
        self.attention = Attention(arch)
        self.feed_forward_norm = nn.LayerNorm(arch.hidden_size, eps=arch.layer_norm_eps)
        self.up = nn.Linear(arch.hidden_size, arch.intermediate_size)
        self.down = nn.Linear(arch.intermediate_size, arch.hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_td: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """T x D in and out."""
        if self.norm_first:
            hidden_td = hidden_td + self.dropout(self.attention(self.attention_norm(hidden_td), batch))
            return hidden_td + self.feed_forward(self.feed_forward_norm(hidden_td))
        hidden_td = self.attention_norm(hidden_td + self.dropout(self.attention(hidden_td, batch)))
        return self.feed_forward_norm(hidden_td + self.feed_forward(hidden_td))  # type: ignore[no-any-return]

    def feed_forward(self, hidden_td: torch.Tensor) -> torch.Tensor:
        """T x D in and out, dropout included; what the layer adds to its input."""
        return self.dropout(self.down(functional.gelu(self.up(hidden_td))))  # type: ignore[no-any-return]


class Trunk(nn.Module):
    """Embeddings, layers and the norms around them; `pooler` is None where no head reads it."""

    def __init__(self, arch: Architecture, dropout: float = 0.0, *, has_pooler: bool = True) -> None:
        super().__init__()
        self.arch = arch
        self.word_embeddings = nn.Embedding(arch.vocab_size, arch.hidden_size)
        self.position_embeddings = nn.Embedding(arch.max_position_embeddings, arch.hidden_size)
        self.token_type_embeddings = nn.Embedding(arch.type_vocab_size, arch.hidden_size)
        self.embedding_norm = _norm(arch) if arch.has_embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(arch, dropout) for _ in range(arch.num_hidden_layers))
        self.norm = _norm(arch) if arch.norm_first else nn.Identity()
        self.pooler = nn.Linear(arch.hidden_size, arch.hidden_size) if has_pooler else None

    def forward(self, batch: PackedBatch, types: torch.Tensor | None = None) -> torch.Tensor:
        """Hidden states of every token, T x D, after the final norm; `types` (T) of tokens, 0 unless given."""
        positions = batch.positions + self.arch.position_offset
        hidden_td = self.word_embeddings(batch.input_ids) + self.position_embeddings(positions)
        types_d = self.token_type_embeddings.weight[0] if types is None else self.token_type_embeddings(types)
        hidden_td = self.dropout(self.embedding_norm(hidden_td + types_d))
        for layer in self.layers:
            hidden_td = layer(hidden_td, batch)
        return self.norm(hidden_td)  # type: ignore[no-any-return]

    def pool(self, hidden_td: torch.Tensor, batch: PackedBatch, pooling: Pooling = "pooler") -> torch.Tensor:
        """One vector a text, B x D; see `models.pooling`."""
        return pool(hidden_td, batch.starts, pooling, self.pooler)


def _norm(arch: Architecture) -> nn.Module:
    return nn.LayerNorm(arch.hidden_size, eps=arch.layer_norm_eps)
