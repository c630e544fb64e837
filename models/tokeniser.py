"""Texts to token ids, in the Rust tokeniser, as ragged arrays: flat ids and a length for each text.

A text is tokenised once for all heads. What is longer than the bundle's `max_length` is cut at its end and says so.
Where a token's word stands in the text is worked out only if a head needs it (`with_offsets`): it takes longer.
Given up: the tail of very long texts is never tokenised (`_CHARS_PER_TOKEN`), so what lies there costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from models.offsets import word_offsets

_CHARS_PER_TOKEN = 32  # English averages 4, Chinese 1; a text is cut here only if its mean is over 32


@dataclass(frozen=True)
class Tokens:
    """N texts as token ids: `ids` (T) end to end, `lengths` (N), `truncated` (N). Special tokens are counted.

    `offsets` (T, 2), only if asked for, says which characters of its text a token's word takes: start, and end not
    included. The pieces of a word have the same; special tokens stand for no character: their start is their end.
    """

    ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    truncated: NDArray[np.bool_]
    offsets: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """T: what the model reads, special tokens and all."""
        return int(self.lengths.sum())


class Tokeniser:
    """The bundle's tokeniser with its length limit. Cheap to build; not shared between processes."""

    def __init__(self, path: Path, max_length: int) -> None:
        self.max_length = max_length
        self._max_chars = max_length * _CHARS_PER_TOKEN
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)

    def encode(self, texts: Sequence[str], *, with_offsets: bool = False) -> Tokens:
        """Tokenise clean texts, in order. An empty list gives empty arrays; an empty text its special tokens."""
        encode = self._tokenizer.encode_batch if with_offsets else self._tokenizer.encode_batch_fast
        starts = [text[: self._max_chars] for text in texts]
        encodings = encode(starts)
        ids = [encoding.ids for encoding in encodings]
        lengths = np.array([len(row) for row in ids], dtype=np.int32)
        return Tokens(
            ids=np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=lengths.sum()),
            lengths=lengths,
            truncated=np.array(
                [bool(e.overflowing) or len(t) > self._max_chars for e, t in zip(encodings, texts, strict=True)],
                dtype=np.bool_,
            ),
            offsets=word_offsets(starts, _pieces(encodings), lengths) if with_offsets else None,
        )


def _pieces(encodings: Sequence[Encoding]) -> NDArray[np.int32]:
    """(T, 2) the characters of each token itself."""
    pairs = chain.from_iterable(encoding.offsets for encoding in encodings)
    return np.fromiter(chain.from_iterable(pairs), dtype=np.int32).reshape(-1, 2)
