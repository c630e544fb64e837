"""Spans of text from a tag a token: what a token head's labels say, decoded in bulk.

Tags are IOB: `B-x` begins a span of x, `I-x` goes on with it, `O` is none. A head of the scheme IOB2 was trained so
that every span begins with a `B-`: of all sequences that keep to that, the likeliest is taken (Viterbi 1967), whatever
x the tags name, and then the likeliest x of each span. Any other head's tags are taken token by token and read with
tolerance: an `I-x` that no span of x stands before begins one, a label without a prefix is an `I-`, and BIOES' `S-` and
`E-` are a `B-` and an `I-`. The first piece of a word speaks for the word. Tokens that stand for no character (special
ones) never have a tag. Given up: BIOES' hint that a span ends at `E-`, which matters only where an `I-` follows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.tokeniser import Tokens

OUTSIDE = "O"
Scheme = Literal["IOB2"]
SPANS = pa.list_(
    pa.struct([("start", pa.int32()), ("end", pa.int32()), ("label", pa.string()), ("prob", pa.float32())])
)
_BEGINNINGS = ("B", "S")
_PREFIXES = (*_BEGINNINGS, "I", "E")


@dataclass(frozen=True)
class _Tagset:
    """What each of C labels says: `tag` (C) is an index into `names`, -1 for none; `begins` (C) a new span."""

    names: tuple[str, ...]
    tag: NDArray[np.int64]
    begins: NDArray[np.bool_]


def tag_names(labels: tuple[str, ...]) -> tuple[str, ...]:
    """What spans can be labelled, in the order of the labels."""
    return tuple(dict.fromkeys(_split(label)[1] for label in labels if label != OUTSIDE))


def find_spans(
    labels: tuple[str, ...], probs_tc: NDArray[np.float32], tokens: Tokens, scheme: Scheme | None
) -> pa.ListArray:
    """Give the spans of each of N texts, in their order, as `SPANS`.

    `start` and `end` count characters of the text that was tokenised, `end` not included; `prob` is the mean over the
    span's words of the probability of the tag that each was given, for IOB2 of either tag of the span's label.
    """
    assert tokens.offsets is not None, "tokenised with offsets"
    tagset, text = _tagset(labels), np.repeat(np.arange(len(tokens)), tokens.lengths)
    words = _words(tokens.offsets, text)
    probs_wc, text, offsets = probs_tc[words], text[words], tokens.offsets[words]
    found = (_whole if scheme == "IOB2" else _one_by_one)(tagset, probs_wc, text)
    inside = np.flatnonzero(found.is_inside)
    first = np.flatnonzero(found.opens[inside])  # places in `inside` where a span begins
    counts = np.diff(np.append(first, len(inside)))
    chosen = inside[first]
    sums_sx = np.add.reduceat(found.probs_wx[inside], first)
    tag = sums_sx.argmax(axis=1)
    fields = [
        pa.array(offsets[chosen, 0]),
        pa.array(offsets[inside[first + counts - 1], 1]),
        pa.array(tagset.names, pa.string()).take(pa.array(tag)),
        pa.array((sums_sx[np.arange(len(tag)), tag] / counts).astype(np.float32)),
    ]
    spans = pa.StructArray.from_arrays(fields, fields=list(SPANS.value_type))
    ends = np.cumsum(np.bincount(text[chosen], minlength=len(tokens)))
    return pa.ListArray.from_arrays(pa.array(np.append(0, ends), pa.int32()), spans)


@dataclass(frozen=True)
class _Found:
    """Of W words: which are inside a span, which open one, and the probability (W, X) of each label's tags."""

    is_inside: NDArray[np.bool_]
    opens: NDArray[np.bool_]
    probs_wx: NDArray[np.float32]


def _one_by_one(tagset: _Tagset, probs_wc: NDArray[np.float32], text: NDArray[np.int64]) -> _Found:
    best = probs_wc.argmax(axis=1)
    tag = tagset.tag[best]
    opens = tagset.begins[best] | _changes(tag) | _changes(text)
    probs_wx = np.zeros((len(tag), len(tagset.names)), np.float32)
    inside = np.flatnonzero(tag >= 0)
    probs_wx[inside, tag[inside]] = probs_wc[inside, best[inside]]
    return _Found(tag >= 0, opens, probs_wx)


def _whole(tagset: _Tagset, probs_wc: NDArray[np.float32], text: NDArray[np.int64]) -> _Found:
    is_tag = tagset.tag >= 0
    by_state = [~is_tag, is_tag & tagset.begins, is_tag & ~tagset.begins]
    state = _likeliest(np.stack([probs_wc[:, columns].sum(axis=1) for columns in by_state], axis=1), text)
    probs_wx = np.stack([probs_wc[:, tagset.tag == x].sum(axis=1) for x in range(len(tagset.names))], axis=1)
    return _Found(state != _OUT, state == _BEGIN, probs_wx)


_OUT, _BEGIN, _IN = 0, 1, 2


def _likeliest(probs_w3: NDArray[np.float32], text: NDArray[np.int64]) -> NDArray[np.int64]:
    """(W,) the likeliest states in which `_IN` follows `_BEGIN` or `_IN` of its own text, all texts side by side."""
    starts = np.flatnonzero(_changes(text))
    lengths = np.diff(np.append(starts, len(text)))
    order = np.argsort(-lengths, kind="stable")  # so that the texts with an n-th word are the first ones
    starts, lengths = starts[order], lengths[order]
    log_w3 = np.log(np.maximum(probs_w3, np.float32(1e-30)))
    came_from, state = np.zeros((len(text), 3), np.int8), np.zeros(len(text), np.int64)
    score_n3 = log_w3[starts]
    score_n3[:, _IN] = -np.inf
    longest = int(lengths.max(initial=0))
    num_at = np.searchsorted(-lengths, -np.arange(longest), side="left")  # texts with more words than that
    for n in range(1, longest):
        words, score_m3 = starts[: num_at[n]] + n, score_n3[: num_at[n]]
        came_from[words, :_IN] = score_m3.argmax(axis=1)[:, None]
        came_from[words, _IN] = 1 + score_m3[:, 1:].argmax(axis=1)
        any_m = score_m3.max(axis=1)
        score_n3[: num_at[n]] = np.stack([any_m, any_m, score_m3[:, 1:].max(axis=1)], axis=1) + log_w3[words]
    last = starts + lengths - 1
    state[last] = score_n3.argmax(axis=1)
    for n in range(longest - 1, 0, -1):
        words = starts[: num_at[n]] + n
        state[words - 1] = came_from[words, state[words]]
    return state


def _words(offsets_t2: NDArray[np.int32], text: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of the tokens that begin a word: those of one word have the same offsets, special ones have none."""
    real = np.flatnonzero(offsets_t2[:, 0] < offsets_t2[:, 1])
    return real[_changes(text[real]) | _changes(offsets_t2[real, 0])]


def _changes(values: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Mark the values that differ from the one before; the first does."""
    return np.concatenate([np.ones(min(1, len(values)), np.bool_), values[1:] != values[:-1]])


def _tagset(labels: tuple[str, ...]) -> _Tagset:
    names = tag_names(labels)
    tag = [names.index(_split(label)[1]) if label != OUTSIDE else -1 for label in labels]
    return _Tagset(names, np.array(tag), np.array([_split(label)[0] in _BEGINNINGS for label in labels]))


def _split(label: str) -> tuple[str, str]:
    prefix, dash, name = label.partition("-")
    return (prefix, name) if dash and prefix in _PREFIXES else ("I", label)
