"""Texts to token ids, in the Rust tokeniser, as ragged arrays: flat ids and a length for each text.

A text is tokenised once for all heads. What is longer than the bundle's `max_length` is cut at its end and says so.
Given up: the tail of very long texts is never tokenised (`_CHARS_PER_TOKEN`), so what lies there costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

_CHARS_PER_TOKEN = 32  # English averages 4, Chinese 1; a text is cut here only if its mean is over 32


@dataclass(frozen=True)
class Tokens:
    """N texts as token ids: `ids` (T) end to end, `lengths` (N), `truncated` (N). Special tokens are counted."""

    ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    truncated: NDArray[np.bool_]

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

    def encode(self, texts: Sequence[str]) -> Tokens:
        """Tokenise clean texts, in order. An empty list gives empty arrays; an empty text its special tokens."""
        encodings = self._tokenizer.encode_batch_fast([text[: self._max_chars] for text in texts])
        ids = [encoding.ids for encoding in encodings]
        return Tokens(
            ids=np.fromiter((i for row in ids for i in row), dtype=np.int32),
            lengths=np.array([len(row) for row in ids], dtype=np.int32),
            truncated=np.array(
                [bool(e.overflowing) or len(t) > self._max_chars for e, t in zip(encodings, texts, strict=True)],
                dtype=np.bool_,
            ),
        )
