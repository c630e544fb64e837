"""From the public sets to token ids and labels that training reads, in one table on disk.

Personal data is masked before a text reaches the tokenizer, a file or a log: what lies in the work folder are token
ids of clean, masked, cut texts. Only the part `train` of a set is read here; `dev` is for calibration and the card.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.train.sets import HEADS, Example, read_set
from models.clean import clean
from models.masking import mask
from models.tokeniser import Tokeniser

ENCODE_AT_ONCE = 8192  # texts


@dataclass(frozen=True)
class Corpus:
    """N texts: `ids` (T) end to end, `lengths` (N), `sets` (N, place in `names`), `labels` (N x heads, bits)."""

    names: tuple[str, ...]
    ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    sets: NDArray[np.int32]
    labels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.lengths)

    def gather(self, rows: NDArray[np.int64]) -> list[NDArray[np.int32]]:
        """Token ids of the chosen texts."""
        ends = np.cumsum(self.lengths, dtype=np.int64)
        return [self.ids[ends[row] - self.lengths[row] : ends[row]] for row in rows]

    def of_set(self, name: str) -> NDArray[np.int64]:
        """Rows of one set."""
        return np.flatnonzero(self.sets == self.names.index(name))


def examples(name: str, data: Path, split: str) -> Iterator[Example]:
    """Clean and masked examples of one set."""
    for example in read_set(name, data, split):
        text = mask(clean(example.text))
        if text:
            yield Example(text, example.sentiment, example.stars)


def encode(texts: Mapping[str, Sequence[Example]], tokeniser: Tokeniser) -> Corpus:
    """Tokenise examples, set by set; texts over the tokeniser's limit lose their end.

    Raises
    ------
    ValueError : there is no text at all.
    """
    everything = [example for some in texts.values() for example in some]
    if not everything:
        raise ValueError(f"no text in {', '.join(texts)}")
    parts = [everything[begin : begin + ENCODE_AT_ONCE] for begin in range(0, len(everything), ENCODE_AT_ONCE)]
    tokens = [tokeniser.encode([example.text for example in part]) for part in parts]
    return Corpus(
        names=tuple(texts),
        ids=np.concatenate([part.ids for part in tokens]),
        lengths=np.concatenate([part.lengths for part in tokens]),
        sets=np.repeat(np.arange(len(texts), dtype=np.int32), [len(some) for some in texts.values()]),
        labels=np.array([(one.sentiment, one.stars) for one in everything], dtype=np.uint8),
    )


def write_corpus(corpus: Corpus, path: Path) -> None:
    """Keep a corpus as Parquet: set, token ids, one column of label bits a head; one row a text."""
    offsets = np.concatenate([[0], np.cumsum(corpus.lengths)]).astype(np.int32)
    columns = {
        "set": pa.DictionaryArray.from_arrays(pa.array(corpus.sets), pa.array(corpus.names)),
        "ids": pa.ListArray.from_arrays(pa.array(offsets), pa.array(corpus.ids)),
        **{head.name: pa.array(corpus.labels[:, index]) for index, head in enumerate(HEADS)},
    }
    pq.write_table(pa.table(columns), path, compression="zstd")


def read_corpus(path: Path) -> Corpus:
    """The inverse of `write_corpus`."""
    table = pq.read_table(path).combine_chunks()
    sets = table["set"].chunk(0)
    ids = table["ids"].chunk(0)
    return Corpus(
        names=tuple(sets.dictionary.to_pylist()),
        ids=ids.flatten().to_numpy(),
        lengths=np.diff(ids.offsets.to_numpy()).astype(np.int32),
        sets=sets.indices.to_numpy(),
        labels=np.stack([table[head.name].to_numpy() for head in HEADS], axis=1),
    )
