"""The packed trunk for scoring on a CPU: `models.trunk.Trunk` with its weights laid out for oneDNN and all else fused.

The same numbers as `Trunk` (fp32: 1e-5). Between two matrix products stands one compiled pass over the rows, attention
runs on ragged texts without padding, and the sum that runs through all layers stays fp32 in every precision. Where
only the first token of each text is read, the last layer computes nothing else: a seventh of a 6-layer trunk's work.
One call runs on one thread; several may run at once.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from models.architecture import Architecture
from models.cpu.linear import prepare
from models.cpu.rows import Rows, Steps
from models.cpu.splitting import split_outliers
from models.precision import Precision
from models.trunk import Layer, Trunk

STORED: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.uint8}

_TOKEN_STEP, _TEXT_STEP = 32, 8  # under 2 % of a batch of 2,048 tokens


def fits(arch: Architecture) -> bool:
    """Whether the compiled steps can run this shape: whole vectors along every row."""
    return not any(size % Steps.LANES for size in (arch.hidden_size, arch.head_dim, arch.intermediate_size))


class FusedLayer:
    """One layer. Runs on the sum `hidden` (fp32, changed in place) and what the step before left to add to it."""

    def __init__(self, layer: Layer, steps: Steps, precision: Precision) -> None:
        size = layer.attention.output.in_features
        self.attention_norm, self.feed_forward_norm = layer.attention_norm, layer.feed_forward_norm
        qkv = layer.attention.qkv
        self._steps, self._dtype, self._num_heads = steps, STORED[precision], layer.attention.num_heads
        self._query = prepare(precision, qkv.weight[:size], qkv.bias[:size])
        self._key_value = prepare(precision, qkv.weight[size:], qkv.bias[size:])
        self._output = prepare(precision, layer.attention.output.weight, layer.attention.output.bias)
        up, up_bias, down = (own.detach() for own in (layer.up.weight, layer.up.bias, layer.down.weight))
        if precision == "int8":
            up, up_bias, down = split_outliers(up, up_bias, down)
        self._up = prepare(precision, up, up_bias)
        self._down = prepare(precision, down, layer.down.bias, after_gelu=True)

    def attend(self, rows: Rows, asking: Rows, starts: NDArray[np.int64]) -> Rows:
        """What attention adds to the rows `asking`: all `rows` (T x D), or the first of each text (B x D)."""
        context = self._steps.attention(self._query(asking), self._key_value(rows), starts, self._num_heads)
        if self._dtype == torch.uint8:
            context = self._steps.activate(context, self._dtype, gelu=False)
        return self._output(context)

    def feed_forward(self, rows: Rows) -> Rows:
        """What the feed-forward block adds."""
        inner = self._up(rows)
        if self._dtype == torch.float32:
            return self._down(Rows(functional.gelu(inner.values)))
        return self._down(self._steps.activate(inner, self._dtype, gelu=True))


class FusedTrunk:
    """A trunk, ready for one precision."""

    def __init__(self, trunk: Trunk, steps: Steps, precision: Precision) -> None:
        self._arch, self._steps, self._dtype = trunk.arch, steps, STORED[precision]
        tables = (trunk.word_embeddings, trunk.position_embeddings, trunk.token_type_embeddings)
        self._tables = tuple(table.weight.detach() for table in tables)
        self._layers = [FusedLayer(layer, steps, precision) for layer in trunk.layers if isinstance(layer, Layer)]
        self._embedding_norm, self._final_norm = trunk.embedding_norm, trunk.norm

    def __call__(self, ids: NDArray[np.int32], lengths: NDArray[np.int32], *, first_only: bool) -> torch.Tensor:
        """Final hidden states in fp32: T x D of every token, or B x D of each text's first.

        Parameters
        ----------
        ids : (T,) token ids of the texts, end to end.
        lengths : (B,) tokens of each text, at least 1, summing to T.
        """
        num_texts, num_tokens = len(lengths), len(ids)
        lengths = np.append(lengths, _fill(num_texts, num_tokens))
        starts = np.append(0, np.cumsum(lengths, dtype=np.int64))
        ids = np.append(ids, np.zeros(starts[-1] - num_tokens, np.int32)).astype(np.int32)
        positions = np.arange(len(ids)) - np.repeat(starts[:-1], lengths) + self._arch.position_offset
        hidden = self._steps.embed(ids, positions.astype(np.int32), self._tables)
        firsts = torch.from_numpy(starts[:-1]) if first_only else None
        states = (self._pre_norm if self._arch.norm_first else self._post_norm)(hidden, starts, firsts)
        return states[: num_texts if first_only else num_tokens]

    def _pre_norm(self, hidden: torch.Tensor, starts: NDArray[np.int64], firsts: torch.Tensor | None) -> torch.Tensor:
        added: Rows | None = None
        for layer in self._layers:
            rows = asking = self._norm(hidden, added, layer.attention_norm)
            if firsts is not None and layer is self._layers[-1]:
                hidden, asking = hidden.index_select(0, firsts), rows.first(firsts)
            added = layer.attend(rows, asking, starts)
            added = layer.feed_forward(self._norm(hidden, added, layer.feed_forward_norm))
        return self._steps.add_norm(hidden, added, _layer_norm(self._final_norm), torch.float32).values

    def _post_norm(self, hidden: torch.Tensor, starts: NDArray[np.int64], firsts: torch.Tensor | None) -> torch.Tensor:
        rows = self._norm(hidden, None, self._embedding_norm)
        for layer in self._layers:
            asking = rows
            if firsts is not None and layer is self._layers[-1]:
                hidden, asking = hidden.index_select(0, firsts), rows.first(firsts)
            rows = self._norm(hidden, layer.attend(rows, asking, starts), layer.attention_norm)
            rows = self._norm(hidden, layer.feed_forward(rows), layer.feed_forward_norm)
        return hidden

    def _norm(self, hidden: torch.Tensor, added: Rows | None, norm: nn.Module) -> Rows:
        post = not self._arch.norm_first
        return self._steps.add_norm(hidden, added, _layer_norm(norm), self._dtype, post=post)


def _fill(num_texts: int, num_tokens: int) -> NDArray[np.int64]:
    """Lengths of a few texts of no meaning that round a batch up to whole steps of tokens and of texts.

    oneDNN compiles a product for each row count it meets and keeps a thousand of them: without steps it compiles anew
    for almost every batch, and a process grows by half a gigabyte.
    """
    num_more = _TEXT_STEP - num_texts % _TEXT_STEP
    tokens = -num_tokens % _TOKEN_STEP
    if tokens < num_more:
        tokens += _TOKEN_STEP
    lengths = np.ones(num_more, np.int64)
    lengths[0] += tokens - num_more
    return lengths


def _layer_norm(norm: nn.Module) -> nn.LayerNorm:
    assert isinstance(norm, nn.LayerNorm)
    return norm
