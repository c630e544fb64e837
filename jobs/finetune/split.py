"""Which texts train, which tell when to stop and how sure to sound, and which the figures are measured on.

A text's part follows from its own digest, so that duplicates never straddle parts and more data moves no text. A set's
own split, where it has one, says what is held out; a text that also stands there is taken out of training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TRAIN, TUNE, DEV, LEFT_OUT = "train", "tune", "dev", "left out"

Parts = NDArray[np.str_]


def split_texts(
    texts: Sequence[str], is_dev: NDArray[np.bool_], has_split: NDArray[np.bool_], shares: tuple[float, float]
) -> Parts:
    """Give each text's part.

    Parameters
    ----------
    is_dev, has_split : held out by its set's own split; its set has one.
    shares : of held-out texts in sets without a split, and of tuning texts among the rest.
    """
    held_out, tune = shares
    chance = np.array([_chance(text) for text in texts])
    parts = np.full(len(texts), TRAIN, dtype=f"<U{len(LEFT_OUT)}")
    parts[chance < tune] = TUNE
    parts[~has_split & (chance >= 1 - held_out)] = DEV
    parts[is_dev] = DEV
    held = {text for text, part in zip(texts, parts, strict=True) if part == DEV}
    straddles = np.array([text in held for text in texts]) & (parts != DEV)
    parts[straddles] = LEFT_OUT
    return parts


def beyond_share(texts: Sequence[str], share: float) -> NDArray[np.bool_]:
    """Mark the texts outside of a share of them all. A larger share holds those of a smaller one."""
    return np.array([_chance(f"share of training\0{text}") >= share for text in texts])


def _chance(text: str) -> float:
    """A number in [0, 1) that is the text's own."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:6]) / 2**48
