"""The plan of a stage: which texts stand in which step, for all epochs, from the seed alone.

Texts of near-equal length share a step (little padding inside attention), drawn from pools of `POOL_STEPS` steps so
that the mix still changes. A resumed stage makes the same plan and goes on at its step: no order is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.batching import batches

POOL_STEPS = 48

Rows = NDArray[np.int64]


class Texts(Protocol):
    """What is planned: how long each text is, and which belong to a set."""

    @property
    def lengths(self) -> NDArray[np.int32]:
        """(N,) in tokens."""

    def of_set(self, name: str) -> Rows:
        """Rows of one set."""


def plan_steps(corpus: Texts, repeats: Mapping[str, float], epochs: int, token_budget: int, seed: int) -> list[Rows]:
    """Rows of every step of a stage, epoch by epoch."""
    rng = np.random.default_rng(seed)
    return [rows for _ in range(epochs) for rows in _epoch(corpus, repeats, token_budget, rng)]


def _epoch(corpus: Texts, repeats: Mapping[str, float], token_budget: int, rng: np.random.Generator) -> list[Rows]:
    chosen = np.concatenate([_repeat(corpus.of_set(name), times, rng) for name, times in repeats.items()])
    rng.shuffle(chosen)
    steps = [rows for pool in _pools(chosen, corpus.lengths, token_budget) for rows in pool]
    order = rng.permutation(len(steps))
    return [steps[index] for index in order]


def _repeat(rows: Rows, times: float, rng: np.random.Generator) -> Rows:
    whole, part = int(times), times % 1
    extra = rng.permutation(rows)[: round(part * len(rows))]
    return np.concatenate([np.tile(rows, whole), extra])


def _pools(chosen: Rows, lengths: NDArray[np.int32], token_budget: int) -> Iterator[Iterator[Rows]]:
    pool_of = np.cumsum(lengths[chosen], dtype=np.int64) // (token_budget * POOL_STEPS)
    for pool in np.split(chosen, np.flatnonzero(np.diff(pool_of)) + 1):
        yield (pool[some] for some in batches(lengths[pool], token_budget))
