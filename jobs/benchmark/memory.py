"""`memory` mode: that a scorer's memory stays flat over a million texts.

Short made-up texts stream through tokeniser and scorer in units, as in the scoring job; nothing is kept. Resident
memory is read at ten points. Growth counts from the fourth: oneDNN keeps a kernel for each row count, of which there
are some hundred (`models/cpu/trunk.py`), and the rare ones, of a unit's last batch, come one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jobs.benchmark.resident import resident_bytes
from models.bundle import Bundle
from models.precision import Precision
from models.scorer import Scorer

_UNIT = 10_000
_POINTS = 10
_WARM = 4  # points until every row count has come by
_ALLOWED_GROWTH = 1.05


@dataclass(frozen=True)
class Sample:
    """Resident memory after so many texts."""

    num_texts: int
    rss_bytes: int


def stream(bundle: Bundle, precision: Precision, num_texts: int, threads: int) -> Iterator[Sample]:
    """Score `num_texts` texts, and give a sample at each tenth.

    Raises
    ------
    ValueError : fewer texts than points.
    """
    if num_texts < _POINTS:
        raise ValueError(f"num_texts must be at least {_POINTS}, one a sample, got {num_texts}")
    scorer = Scorer(bundle, token_budget=4096, precision=precision, threads=threads)
    done = 0
    for point in range(1, _POINTS + 1):
        until = num_texts * point // _POINTS
        while done < until:
            texts = short_texts(done, min(_UNIT, until - done))
            scorer.score(bundle.tokeniser.encode(texts))
            done += len(texts)
        yield Sample(done, resident_bytes())


def short_texts(first: int, num: int) -> list[str]:
    """Distinct texts of a few words, and of lengths that vary from one to the next."""
    words = ("good", "bad", "slow", "很好", "太贵", "delivery", "battery", "service")
    return [
        f"{index} {' '.join(words[index * step % 8] for step in range(1, 2 + index % 7))}"
        for index in range(first, first + num)
    ]


def growth(samples: list[Sample]) -> float:
    """Most memory after the warm-up over memory at its end."""
    after = [sample.rss_bytes for sample in samples[_WARM - 1 :]]
    return max(after[1:]) / after[0]


def is_flat(samples: list[Sample]) -> bool:
    """Whether growth is within what allocators need to settle."""
    return growth(samples) <= _ALLOWED_GROWTH
