"""The engine beside the service, in the same run: what `engine` mode gives for the same texts, precision and threads.

Measured before the service starts and after it has ended, because its idle processes want the cores too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np

from jobs.benchmark.arena import Arena
from jobs.benchmark.model import Model
from jobs.benchmark.roster import ours
from jobs.benchmark.serve.options import ServeOptions
from jobs.benchmark.work import Work, thin

_TEXTS = 600
_BATCH_TRIALS = 7


class Engine:
    """Ours in process: from token ids, as `engine` mode, and from texts."""

    def __init__(self, model: Model, work: Work, folder: Path, options: ServeOptions) -> None:
        self._folder, self._options, self._work = folder, options, work
        self._arena = Arena(model, work.pick(thin(work.lengths, _TEXTS)), folder, options.threads)
        self._speeds: list[list[float]] = [[], []]

    @contextmanager
    def open(self) -> Iterator[None]:
        """Load and tune.

        Raises
        ------
        ValueError : the precision can't be had here.
        """
        precision = self._options.precision
        with self._arena.open([ours(precision), ours(precision, from_texts=True)]):
            if self._arena.left_out:
                raise ValueError(f"precision {precision}: {next(iter(self._arena.left_out.values()))}")
            yield

    def play(self) -> None:
        """Measure some rounds more."""
        self._arena.play(self._options.rounds)
        for speeds, runs in zip(self._speeds, self._arena.results(), strict=True):
            speeds.extend(runs.docs_per_s())

    @property
    def texts_per_s(self) -> float:
        """Token ids to probabilities, over all rounds so far."""
        return median(self._speeds[0])

    @property
    def texts_per_s_tokenising(self) -> float:
        """Texts to probabilities."""
        return median(self._speeds[1])

    def seconds_of(self, num_texts: int) -> float:
        """How long a batch of so many texts takes, from token ids."""
        folder = self._folder / f"batch-{num_texts}"
        if not folder.exists():
            self._work.pick(thin(self._work.lengths, num_texts)).save(folder)
        trials = [self._arena.speed_on(self._arena.ready[0], folder) for _ in range(_BATCH_TRIALS)]
        return float(median(trials))

    def texts_in(self, num_tokens: int) -> int:
        """How many texts of the mean length that many tokens are."""
        return max(1, round(num_tokens / float(np.mean(self._work.lengths))))
