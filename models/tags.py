"""Spans of text from a tag a token: what a token head's BIO labels say, decoded in bulk.

Tags are IOB2 (`B-x` begins a span of x, `I-x` goes on with it, `O` is none), read with tolerance: an `I-x` that no span
of x stands before begins one, a label without a prefix is an `I-`, and BIOES' `S-` and `E-` are a `B-` and an `I-`. The
first piece of a word speaks for the word. Tokens that stand for no character (special ones) never have a tag.
Given up: BIOES' hint that a span ends at `E-`, which matters only where an `I-` follows it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.tokeniser import Tokens

OUTSIDE = "O"
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


def find_spans(labels: tuple[str, ...], probs_tc: NDArray[np.float32], tokens: Tokens) -> pa.ListArray:
    """Give the spans of each of N texts, in their order, as `SPANS`.

    `start` and `end` count characters of the text that was tokenised, `end` not included; `prob` is the mean over the
    span's words of the probability of the tag that each was given.
    """
    assert tokens.offsets is not None, "tokenised with offsets"
    tagset, text = _tagset(labels), np.repeat(np.arange(len(tokens)), tokens.lengths)
    words = _words(tokens.offsets, text)
    best = probs_tc[words].argmax(axis=1)
    tag, text, offsets = tagset.tag[best], text[words], tokens.offsets[words]
    opens = (tag >= 0) & (tagset.begins[best] | _changes(tag) | _changes(text))
    inside = np.flatnonzero(tag >= 0)
    first = np.flatnonzero(opens[inside])  # places in `inside` where a span begins
    counts = np.diff(np.append(first, len(inside)))
    chosen = inside[first]
    fields = [
        pa.array(offsets[chosen, 0]),
        pa.array(offsets[inside[first + counts - 1], 1]),
        pa.array(tagset.names, pa.string()).take(pa.array(tag[chosen])),
        pa.array((np.add.reduceat(probs_tc[words, best][inside], first) / counts).astype(np.float32)),
    ]
    spans = pa.StructArray.from_arrays(fields, fields=list(SPANS.value_type))
    ends = np.cumsum(np.bincount(text[chosen], minlength=len(tokens)))
    return pa.ListArray.from_arrays(pa.array(np.append(0, ends), pa.int32()), spans)


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
