"""Spans of a text through masking, and from characters to a tag a token: the way back of `models.tags.find_spans`.

A word that a span touches belongs to it whole, and all pieces of a word get the word's tag, as it is read off its first
piece. Of overlapping spans the earlier one has the word.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.clean import clean_with_offsets
from models.masking import find, mask
from models.tags import OUTSIDE
from models.tokeniser import Tokens

Spans = frozenset[tuple[int, int, str]]
IGNORED = -100  # what the loss passes over: tokens that stand for no character


def tag_labels(names: Sequence[str]) -> tuple[str, ...]:
    """The labels of a token head whose spans have these names."""
    return (OUTSIDE, *(f"{prefix}-{name}" for name in names for prefix in ("B", "I")))


def moved_to_masked(spans: Spans, raw: str) -> Spans:
    """Spans in characters of a text as found, in those of the clean, masked text.

    One of which nothing is left is left out; one that touches personal data takes its placeholder whole.
    """
    cleaned = clean_with_offsets(raw)
    place = _places_in_masked(cleaned.text)
    moved = set()
    for start, end, label in spans:
        inside = np.flatnonzero((cleaned.starts < end) & (cleaned.ends > start))
        if len(inside):
            moved.add((int(place[inside[0], 0]), int(place[inside[-1], 1]), label))
    return frozenset(moved)


def _places_in_masked(text: str) -> NDArray[np.int64]:
    """(N, 2) for each character of a clean text: where it, or the placeholder it became part of, stands once masked."""
    place = np.stack([np.arange(len(text)), np.arange(1, len(text) + 1)], axis=1)
    shift = 0
    for found in find(text):
        start = found.start + shift
        place[found.start : found.end] = start, start + len(f"[{found.kind}]")
        shift += len(f"[{found.kind}]") - (found.end - found.start)
        place[found.end :] = np.arange(found.end, len(text))[:, None] + shift + np.array([0, 1])
    assert len(mask(text)) == len(text) + shift
    return place


def token_tags(spans: Sequence[Spans], labels: Sequence[str], tokens: Tokens) -> NDArray[np.int64]:
    """(T,) the tag of each token as a place in `labels`, `IGNORED` for special tokens."""
    assert tokens.offsets is not None, "tokenised with offsets"
    tags = np.where(tokens.offsets[:, 0] < tokens.offsets[:, 1], labels.index(OUTSIDE), IGNORED)
    begin = 0
    for own, length in zip(spans, tokens.lengths.tolist(), strict=True):
        if own:
            _put_tags(tags[begin : begin + length], tokens.offsets[begin : begin + length], own, labels)
        begin += length
    return tags


def _put_tags(tags: NDArray[np.int64], offsets: NDArray[np.int32], spans: Spans, labels: Sequence[str]) -> None:
    free = tags != IGNORED
    for start, end, name in sorted(spans):
        touched = np.flatnonzero(free & (offsets[:, 0] < end) & (offsets[:, 1] > start))
        if len(touched):
            is_first = offsets[touched, 0] == offsets[touched[0], 0]
            tags[touched] = np.where(is_first, labels.index(f"B-{name}"), labels.index(f"I-{name}"))
            free[touched] = False
