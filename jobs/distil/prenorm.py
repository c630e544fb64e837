"""A post-LN trunk (BERT) rewritten as a pre-LN one (Megatron-BERT) of nearly the same numbers.

Post-LN hands on what a norm made: r' = n(r) + f(n(r)). Pre-LN adds to a stream that no norm touches: s' = s + g(n'(s)).
A norm is nearly affine, n(r) ≈ a r + b for each number of the hidden state, as far as r's spread is the same for all
tokens. So let s = r / p with p the product of all a so far: then s' = s + (f(n(r)) + b) / p', where p' has one factor
more, and the division goes into the matrix that writes into the stream. n' is fitted, number by number, to what n gave;
both fits are least squares over the tokens of a batch. The first norm is exact, errors grow with the layers (cosine
with the true states of all-MiniLM-L6-v2: 0.99 after the first of six layers, 0.93 in the middle, 0.43 at the end). So
training on the teacher's states must follow; it has little left to do (NOTES.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from models.packing import PackedBatch
from models.trunk import Layer, Trunk

_LEAST = 1e-3  # of a factor: a number that a norm nearly wipes out isn't blown up without bound


@torch.inference_mode()
def to_prenorm(post: Trunk, batch: PackedBatch) -> Trunk:
    """A Megatron-BERT with the weights of a BERT, fitted on a batch of its texts; `post` is left as it is.

    Positions are counted from 0, so those that RoBERTa leaves out fall away.
    """
    offset = post.arch.position_offset
    changes = {"family": "megatron-bert", "max_position_embeddings": post.arch.max_length, "pad_token_id": 0}
    pre = Trunk(post.arch.model_copy(update=changes), has_pooler=False)
    weights = {name: tensor for name, tensor in post.state_dict().items() if name in pre.state_dict()}
    weights["position_embeddings.weight"] = weights["position_embeddings.weight"][offset:]
    pre.load_state_dict(weights, strict=False)  # all but the last norm, which is fitted like the others

    raw_td = post.word_embeddings(batch.input_ids) + post.position_embeddings(batch.positions + offset)
    raw_td = raw_td + post.token_type_embeddings.weight[0]
    stream_td, normed_td = raw_td, post.embedding_norm(raw_td)
    scale_d = torch.ones(post.arch.hidden_size)
    for old, new in zip(_blocks(post, batch), _blocks(pre, batch), strict=True):
        _fit_norm(new.norm, stream_td, normed_td)
        factor_d, shift_d = _fit_line(raw_td, normed_td)
        scale_d = scale_d * torch.where(factor_d.abs() < _LEAST, _LEAST, factor_d)
        new.writes.weight.copy_(old.writes.weight / scale_d[:, None])
        new.writes.bias.copy_((old.writes.bias + shift_d) / scale_d)
        stream_td = stream_td + new.added(new.norm(stream_td))
        raw_td = normed_td + old.added(normed_td)
        normed_td = old.norm(raw_td)
    assert isinstance(pre.norm, nn.LayerNorm)
    _fit_norm(pre.norm, stream_td, normed_td)
    return pre


class _Block(NamedTuple):
    """Attention or feed-forward: its norm (before it in pre-LN, after it in post-LN), its function, its last matrix."""

    norm: nn.LayerNorm
    added: Callable[[torch.Tensor], torch.Tensor]
    writes: nn.Linear


def _blocks(trunk: Trunk, batch: PackedBatch) -> Iterator[_Block]:
    for layer in trunk.layers:
        assert isinstance(layer, Layer)
        yield _Block(layer.attention_norm, partial(layer.attention, batch=batch), layer.attention.output)
        yield _Block(layer.feed_forward_norm, layer.feed_forward, layer.down)


def _fit_norm(norm: nn.LayerNorm, inputs_td: torch.Tensor, wanted_td: torch.Tensor) -> None:
    """Factor and shift of a norm, so that it gives what is wanted."""
    centred = inputs_td - inputs_td.mean(dim=1, keepdim=True)
    factor_d, shift_d = _fit_line(centred / centred.square().mean(dim=1, keepdim=True).sqrt(), wanted_td)
    norm.weight.copy_(factor_d)
    norm.bias.copy_(shift_d)


def _fit_line(inputs_td: torch.Tensor, wanted_td: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Least squares over tokens, each column for itself: wanted = factor * inputs + shift."""
    mean_d, wanted_d = inputs_td.mean(dim=0), wanted_td.mean(dim=0)
    rest = inputs_td - mean_d
    factor_d = (rest * (wanted_td - wanted_d)).mean(dim=0) / rest.square().mean(dim=0)
    return factor_d, wanted_d - factor_d * mean_d
