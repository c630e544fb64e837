"""Texts as training's plans and steps read them: token ids end to end, and which set each text is of.

Labels, vectors and whatever else a step needs stand beside it, in the order of the texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.tokeniser import Tokens


@dataclass(frozen=True)
class Corpus:
    """N texts: `ids` (T) end to end, `lengths` (N), `sets` (N, place in `names`)."""

    names: tuple[str, ...]
    ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    sets: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.lengths)

    def gather(self, rows: NDArray[np.int64]) -> list[NDArray[np.int32]]:
        """Token ids of the chosen texts."""
        ends = np.cumsum(self.lengths, dtype=np.int64)
        return [self.ids[ends[row] - self.lengths[row] : ends[row]] for row in rows]

    def of_set(self, name: str) -> NDArray[np.int64]:
        """Rows of one set."""
        return np.flatnonzero(self.sets == self.names.index(name))


def corpus_of(tokens: Tokens, names: Sequence[str], sets: NDArray[np.int32]) -> Corpus:
    """Tokenised texts of the sets `names`."""
    return Corpus(tuple(names), tokens.ids, tokens.lengths, sets)


def take_tokens(tokens: Tokens, rows: NDArray[np.int64]) -> Tokens:
    """Some of the texts."""
    starts = np.cumsum(tokens.lengths, dtype=np.int64) - tokens.lengths
    empty = np.zeros(0, np.int64)
    places = np.concatenate([empty, *(np.arange(starts[row], starts[row] + tokens.lengths[row]) for row in rows)])
    offsets = None if tokens.offsets is None else tokens.offsets[places]
    return Tokens(tokens.ids[places], tokens.lengths[rows], tokens.truncated[rows], offsets)
