"""The texts of a measurement: a user's own, else real mixed feedback beside the checkout, else made up at its lengths.

Texts are distinct, sampled with a seed, and cut to the model's limit, so that every contender reads the same tokens.
Made-up texts are sentences of the demo corpus put together until they reach a length drawn from the quantiles of the
real sets (below).
"""

from __future__ import annotations

import gzip
import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tokenizers import Tokenizer

from jobs.benchmark.client import ROOT
from jobs.benchmark.work import Work
from jobs.demo.corpus import write_corpus
from models.bundle import TOKENIZER_FILE, Bundle

REAL = ROOT.parent / "shared" / "data" / "feedback"
_DEMO_ROWS = 2000
_MAX_CHARS = 8192
# Tokens of 370,137 distinct texts of 29 real sets under the starter's tokeniser, every twentieth part (22 Nov 2026).
LENGTH_QUANTILES = (3, 7, 9, 11, 13, 14, 16, 18, 20, 22, 25, 28, 31, 34, 39, 46, 56, 71, 95, 133, 256)


class TextsError(ValueError):
    """No texts to measure with."""


def gather(source: Path | None, bundle: Bundle, num_texts: int, seed: int) -> tuple[Work, str]:
    """Give the work, and where its texts come from.

    Raises
    ------
    TextsError : `source` can't be read, or has no column `text`, or holds too few distinct texts.
    """
    if num_texts < 1:
        raise TextsError(f"num_texts must be at least 1, got {num_texts}")
    place = source or (REAL if REAL.is_dir() else None)
    cut = Cutter(bundle)
    if place is None:
        return cut.work(generate(cut, num_texts, seed)), "made up at the lengths of real feedback"
    return cut.work(sample(read_texts(place), num_texts, seed, place)), f"{num_texts} texts of {place.name}"


def read_texts(place: Path) -> set[str]:
    """Distinct texts of the column `text` of a Parquet file, or of all of a folder."""
    files = sorted(place.rglob("*.parquet")) if place.is_dir() else [place]
    if not files:
        raise TextsError(f"texts {place}: the folder holds no .parquet file")
    return {text for file in files for text in _column(file) if text and text.strip()}


def _column(file: Path) -> list[str | None]:
    try:
        texts: list[str | None] = pq.read_table(file, columns=["text"])["text"].to_pylist()
    except (OSError, ValueError, KeyError) as error:
        raise TextsError(f"texts {file}: no Parquet file with a column text ({type(error).__name__})") from error
    return texts


def sample(texts: set[str], num_texts: int, seed: int, place: Path) -> list[str]:
    """Choose texts; the same seed chooses the same."""
    if len(texts) < num_texts:
        raise TextsError(f"texts {place}: {len(texts)} distinct texts, but num_texts asks for {num_texts}")
    return random.Random(seed).sample(sorted(texts), num_texts)  # noqa: S311 - no secret


def generate(cut: Cutter, num_texts: int, seed: int) -> list[str]:
    """Make up texts whose lengths are distributed as those of real feedback."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    pool = _demo_texts(seed)
    places = np.random.default_rng(seed).random(num_texts)
    return [_of_length(cut, pool, rng, int(length)) for length in lengths_at(places)]


def lengths_at(places: NDArray[np.floating]) -> NDArray[np.int64]:
    """Tokens of a real text at these places, 0 to 1, of their order by length."""
    steps = np.linspace(0, 1, len(LENGTH_QUANTILES))
    lengths: NDArray[np.int64] = np.rint(np.interp(places, steps, LENGTH_QUANTILES)).astype(np.int64)
    return lengths


def _of_length(cut: Cutter, pool: Sequence[str], rng: random.Random, length: int) -> str:
    text = rng.choice(pool)
    while cut.num_tokens(text) < length:
        text = f"{text} {rng.choice(pool)}"
    return cut(text, length)


def _demo_texts(seed: int) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder), _DEMO_ROWS, seed)
        return [text for path in sorted(Path(folder, "corpus").rglob("*.jsonl*")) for text in _lines(path)]


def _lines(path: Path) -> Iterator[str]:
    """Texts of one file; the broken lines that the demo plants are passed over."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for line in raw.splitlines():
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError):
            continue
        if isinstance(text, str) and text.strip():
            yield text[:_MAX_CHARS]


class Cutter:
    """Cuts texts where a length limit would cut their tokens."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._tokenizer = Tokenizer.from_file(str(bundle.folder / TOKENIZER_FILE))

    def num_tokens(self, text: str) -> int:
        """Tokens of a whole text, special ones counted."""
        return len(self._tokenizer.encode(text).ids)

    def __call__(self, text: str, limit: int) -> str:
        """Give the text's beginning that has at most `limit` tokens."""
        text = text[: limit * 32]
        while len((encoding := self._tokenizer.encode(text)).ids) > limit:
            text = text[: min(encoding.offsets[max(limit - 2, 0)][1], len(text) - 1)]
        return text

    def work(self, texts: Sequence[str]) -> Work:
        """Cut texts to the bundle's limit, and tokenise them."""
        cut = tuple(self(text, self._bundle.spec.max_length) for text in texts)
        tokens = self._bundle.tokeniser.encode(cut)
        return Work(tokens.ids, tokens.lengths, cut)
