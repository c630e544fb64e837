"""Where in its text the word stands that a token belongs to: what turns a token head's tags into spans of text.

The pieces of a word share the word's place, so whoever reads tags needs no second look at the text. A word is what
letters, digits and marks touch each other; in scripts written without spaces (Chinese, Japanese, Thai and others) each
token is a word. So it doesn't matter whether the tokeniser keeps a space with the word behind it (SentencePiece), or
cuts one character into several tokens (byte-level BPE). Given up: tags that change inside a word.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

_SPACE = 0x20  # the only white space of a clean text
_UNSPACED = (
    (0x0E00, 0x0F00),  # Thai, Lao
    (0x1000, 0x10A0),  # Myanmar
    (0x1780, 0x1800),  # Khmer
    (0x2E80, 0xA000),  # radicals, kana, bopomofo, ideographs
    (0xF900, 0xFB00),  # compatibility ideographs
    (0x20000, 0x40000),  # rarer ideographs
)


def word_offsets(texts: Sequence[str], pieces_t2: NDArray[np.int32], lengths: NDArray[np.int32]) -> NDArray[np.int32]:
    """Give (T, 2) the place of each token's word, from the place of each token's own characters.

    Both count characters of the token's text, the end not included; start and end are equal for special tokens.
    """
    codes = np.frombuffer("".join(texts).encode("utf-32-le") + bytes(4), dtype="<u4")  # a zero behind the last
    sizes = np.fromiter((len(text) for text in texts), dtype=np.int64, count=len(texts))
    base = np.repeat(np.cumsum(sizes) - sizes, lengths)
    starts, ends = pieces_t2[:, 0].astype(np.int64), pieces_t2[:, 1].astype(np.int64)
    starts += (starts < ends) & (codes[base + starts] == _SPACE)
    text = np.repeat(np.arange(len(texts)), lengths)
    begins = ~_go_on(codes, base + starts, base + ends) | (
        text != np.roll(text, 1)
    )  # no word reaches into another text
    begins[:1] = True
    first = np.flatnonzero(begins)
    words = np.stack([starts[first], np.maximum.reduceat(ends, first)], axis=1)
    return np.repeat(words, np.diff(np.append(first, len(starts))), axis=0).astype(np.int32)


def _go_on(codes: NDArray[np.uint32], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the tokens that belong to the word of the token before: they overlap, or touch without a seam."""
    before = np.roll(ends, 1)
    is_real = starts < ends
    joins = _joining()[codes]
    touches = (starts == before) & joins[starts] & joins[before - 1]
    overlaps = (starts < before) & (np.roll(starts, 1) <= starts)
    marked: NDArray[np.bool_] = is_real & np.roll(is_real, 1) & (touches | overlaps)
    return marked


@cache
def _joining() -> NDArray[np.bool_]:
    """For each code point: is it a letter, digit or mark of a script that parts its words? (0.2 s, once a process)."""
    joins = np.array([unicodedata.category(chr(code))[0] in "LMN" for code in range(0x110000)])
    for low, high in _UNSPACED:
        joins[low:high] = False
    return joins
