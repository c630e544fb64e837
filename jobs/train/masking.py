"""Which tokens a step hides: the noise of training, drawn anew in every step.

Whole words are hidden: the pieces of an English word together, and Chinese characters in chance runs (mean 2), as no
word list of Chinese is at hand. Of the hidden tokens 80 % become [MASK], 10 % another token, 10 % stay (Devlin et al.
2019); the share hidden is high, as suits small models (Wettig et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from jobs.train.roles import MASKS, find_role
from jobs.train.tokenizer import CONTINUATION, SPECIAL

RUN_ON = 0.5  # chance that a Chinese character belongs to the unit of the one before
_HAN = ("\u3400", "\u9fff")

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Vocabulary:
    """What masking must know of the V tokens: which go on a word, which are Chinese, which are never hidden."""

    goes_on: NDArray[np.bool_]
    is_han: NDArray[np.bool_]
    is_special: NDArray[np.bool_]
    mask_id: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Vocabulary:
        """Read it off a tokenizer."""
        tokens = [tokenizer.id_to_token(index) or "" for index in range(tokenizer.get_vocab_size())]
        added = {token.content for token in tokenizer.get_added_tokens_decoder().values()} | set(SPECIAL)
        return cls(
            goes_on=np.array([token.startswith(CONTINUATION) for token in tokens]),
            is_han=np.array([len(token) == 1 and _HAN[0] <= token <= _HAN[1] for token in tokens]),
            is_special=np.array([token in added for token in tokens]),
            mask_id=find_role(tokenizer, "mask", MASKS),
        )


def hide(ids: Ids, rate: float, vocabulary: Vocabulary, rng: np.random.Generator) -> tuple[Ids, NDArray[np.int64]]:
    """Hide a share of packed tokens.

    Returns
    -------
    (T,) the ids with noise; the positions, rising, whose first ids are to be told.
    """
    return hide_units(ids, vocabulary.goes_on[ids] | chance_runs(ids, vocabulary, rng), rate, vocabulary, rng)


def chance_runs(ids: Ids, vocabulary: Vocabulary, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(T,) which Chinese characters go on the unit of the one before, by chance."""
    is_han = vocabulary.is_han[ids]
    runs = np.zeros(len(ids), np.bool_)
    runs[1:] = is_han[1:] & is_han[:-1] & (rng.random(len(ids) - 1) < RUN_ON)
    return runs


def hide_units(
    ids: Ids, joined: NDArray[np.bool_], rate: float, vocabulary: Vocabulary, rng: np.random.Generator
) -> tuple[Ids, NDArray[np.int64]]:
    """As `hide`, with the units given: `joined` (T) says which tokens go on the unit of the one before."""
    unit = np.cumsum(~joined)
    hidden = (rng.random(unit[-1] + 1) < rate)[unit] & ~vocabulary.is_special[ids]
    positions = np.flatnonzero(hidden)
    fate = rng.random(len(positions))
    noisy = ids.copy()
    noisy[positions[fate < 0.8]] = vocabulary.mask_id
    swapped = positions[fate >= 0.9]
    noisy[swapped] = rng.choice(np.flatnonzero(~vocabulary.is_special), len(swapped))
    return noisy, positions
