"""How far a run is: a line that redraws itself on a terminal, a plain log line now and then elsewhere.

Never a text, never an id: only counts.
"""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from tqdm import tqdm

from jobs.score.write import Counts

_LOG_EVERY_S = 10.0

log = logging.getLogger("verbatim.score")


@dataclass
class Effort:
    """What this run itself did, summed over receipts."""

    counts: Counts = field(default_factory=lambda: Counts(0, 0, 0, 0, 0))
    units: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    possible_flops: float = 0.0
    halved: dict[str, int] = field(default_factory=dict)  # units in which batches were, and how many

    def add(self, receipt: dict[str, Any]) -> None:
        """Count one written unit."""
        self.counts += Counts(**{name: receipt[name] for name in asdict(self.counts)})
        self.units += 1
        if receipt["halved"]:
            self.halved[receipt["unit"]] = receipt["halved"]
        if receipt["flops"] is not None:
            self.flops += receipt["flops"]
            self.possible_flops += receipt["score_s"] * receipt["limit_flops_per_s"]

    @property
    def tokens_per_s(self) -> float:
        """Real tokens scored a second, from the first read to the last write."""
        return self.counts.tokens / self.seconds if self.seconds else 0.0

    @property
    def limit_share(self) -> float | None:
        """Share of the measured matrix-multiply limit that the forward passes reached; None if not known."""
        return self.flops / self.possible_flops if self.possible_flops else None


class Progress:
    """Shows rows, tokens/s, rejected rows and the time left. Rows in all may be unknown (None)."""

    def __init__(self, num_rows: int | None, effort: Effort) -> None:
        self._num_rows, self._effort, self._before = num_rows, effort, effort.seconds
        self._began = self._logged = time.monotonic()
        self._bar = tqdm(total=num_rows, unit=" rows", smoothing=0.1, disable=not sys.stderr.isatty(), leave=False)

    def show(self) -> None:
        """Show the state after some units more."""
        effort = self._effort
        effort.seconds = self._before + time.monotonic() - self._began
        state = f"{effort.tokens_per_s:,.0f} tokens/s, {effort.counts.rows_rejected:,} rejected"
        self._bar.set_postfix_str(state, refresh=False)
        self._bar.update(effort.counts.rows_in - self._bar.n)
        if self._bar.disable and time.monotonic() - self._logged >= _LOG_EVERY_S:
            self._logged = time.monotonic()
            log.info("%s, %s", self._rows(effort), state)

    def close(self) -> None:
        """Take the line away."""
        self._bar.close()

    def _rows(self, effort: Effort) -> str:
        rows = effort.counts.rows_in
        if not self._num_rows or not rows:
            return f"{rows:,} rows"
        left_s = max(0.0, effort.seconds * (self._num_rows / rows - 1))
        return f"{rows:,} of {self._num_rows:,} rows, about {left_s:,.0f} s left"
