"""Words as the common measure of two tokenisers: which tokens make up a word, and which words both sides have.

A word is its place in the text (`models.offsets`), so pieces may be cut however they like. A word's state is the mean
of its pieces'. Given up: words that only one side's length limit leaves whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.tokeniser import Tokens

_LONGEST = 1 << 21  # characters of a text; a place is told by one number


@dataclass(frozen=True)
class Words:
    """W words of B packed texts.

    places : tokens that belong to a word, by their place in the batch; special tokens belong to none.
    index : the word of each of these, from 0 to W - 1.
    texts : (W,) the text that a word stands in.
    spans : (W, 2) where it stands there, in characters.
    """

    places: NDArray[np.int64]
    index: NDArray[np.int64]
    texts: NDArray[np.int64]
    spans: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.texts)

    def mean(self, states_td: torch.Tensor) -> torch.Tensor:
        """W x D in fp32, from T x D."""
        device = states_td.device
        index = torch.from_numpy(self.index).to(device)
        pieces = states_td.index_select(0, torch.from_numpy(self.places).to(device)).float()
        sums = torch.zeros(len(self), states_td.shape[1], device=device).index_add(0, index, pieces)
        return sums / torch.bincount(index, minlength=len(self)).unsqueeze(1)


def words_of(tokens: Tokens) -> Words:
    """The words of texts that were tokenised with offsets."""
    assert tokens.offsets is not None
    texts = np.repeat(np.arange(len(tokens)), tokens.lengths)
    places = np.flatnonzero(tokens.offsets[:, 0] < tokens.offsets[:, 1])
    spans, owner = tokens.offsets[places], texts[places]
    begins = np.ones(len(places), np.bool_)
    begins[1:] = (spans[1:] != spans[:-1]).any(axis=1) | (owner[1:] != owner[:-1])
    return Words(places, np.cumsum(begins) - 1, owner[begins], spans[begins])


def common(
    texts: NDArray[np.int64], spans: NDArray[np.int32], other_texts: NDArray[np.int64], other_spans: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the words that both have stand in either; text by text, from left to right."""
    _, ours, theirs = np.intersect1d(_keys(texts, spans), _keys(other_texts, other_spans), return_indices=True)
    return ours, theirs


def _keys(texts: NDArray[np.int64], spans: NDArray[np.int32]) -> NDArray[np.int64]:
    keys: NDArray[np.int64] = (texts * _LONGEST + spans[:, 0]) * _LONGEST + spans[:, 1]
    return keys
