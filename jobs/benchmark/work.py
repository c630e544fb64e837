"""Work: the texts that every contender is given, as texts and as token ids, in plain NumPy and JSON files.

The texts are already cut to the model's limit, so that all read the same tokens. A `Work` crosses to peers in another
virtual environment, so this file imports nothing of ours. A work of bare token ids has no texts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Work:
    """N texts: `ids` (T) end to end, `lengths` (N), and `texts` (N, or none where only token ids are made up)."""

    ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    texts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """T: real tokens, special ones counted."""
        return int(self.lengths.sum())

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each text begins in `ids`."""
        sizes = self.lengths.astype(np.int64)
        return np.cumsum(sizes) - sizes

    def pick(self, rows: NDArray[np.integer]) -> Work:
        """Give some of the texts, in the order of `rows`."""
        starts = self.starts
        parts = [self.ids[starts[row] : starts[row] + self.lengths[row]] for row in rows]
        texts = tuple(self.texts[row] for row in rows) if self.texts else ()
        return Work(np.concatenate(parts) if parts else self.ids[:0], self.lengths[rows], texts)

    def save(self, folder: Path) -> None:
        """Write to the new folder `folder`."""
        folder.mkdir(parents=True)
        np.savez(folder / "tokens.npz", ids=self.ids, lengths=self.lengths)
        (folder / "texts.json").write_text(json.dumps(self.texts), encoding="utf-8")


def load_work(folder: Path) -> Work:
    """Read what `Work.save` wrote."""
    with np.load(folder / "tokens.npz") as arrays:
        ids, lengths = arrays["ids"], arrays["lengths"]
    return Work(ids, lengths, tuple(json.loads((folder / "texts.json").read_text(encoding="utf-8"))))


def thin(lengths: NDArray[np.integer], num_texts: int) -> NDArray[np.int64]:
    """Choose `num_texts` rows that have the length distribution of all: evenly spaced in the order of length."""
    num_texts = min(num_texts, len(lengths))
    places = ((np.arange(num_texts) + 0.5) * len(lengths) / max(num_texts, 1)).astype(np.int64)
    return np.sort(np.argsort(lengths, kind="stable")[places])


def made_up(lengths: NDArray[np.integer], vocab_size: int, seed: int = 0) -> Work:
    """Random token ids at the given lengths, for measuring speed alone."""
    rng = np.random.default_rng(seed)
    first_plain = vocab_size // 2  # special tokens stand at the beginning of a vocabulary
    ids = rng.integers(first_plain, vocab_size, size=int(lengths.sum()), dtype=np.int32)
    return Work(ids, lengths.astype(np.int32))
