"""The result of a measurement: one row a contender, as it is printed and written to JSON.

Medians over rounds, with the slowest and the fastest beside them. Ratios are medians of ratios within a round, because
contenders that ran side by side shared whatever else the machine was doing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Row:
    """One contender.

    `tokens_per_s` counts real tokens. `padding_share` is of all computed token slots. `limit_share` is the real
    tokens' operations over what the machine's matrix products could have done in the time. `ratio_to` is the speed
    relative to others by name.
    """

    name: str
    docs_per_s: float
    tokens_per_s: float
    padding_share: float | None
    limit_share: float | None
    peak_bytes: int
    docs_per_s_low: float
    docs_per_s_high: float
    seconds: float
    num_texts: int
    num_tokens: int
    note: str = ""
    max_prob_diff: float | None = None
    cost_per_million_texts: float | None = None
    ratio_to: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Runs:
    """What was seen of one contender: seconds of each round, and what didn't change between rounds."""

    name: str
    seconds: tuple[float, ...]
    num_texts: int
    num_tokens: int
    slots: int
    peak_bytes: int
    flops: int | None = None
    note: str = ""
    max_prob_diff: float | None = None

    def docs_per_s(self) -> list[float]:
        """Of each round."""
        return [self.num_texts / seconds for seconds in self.seconds]


def make_row(
    runs: Runs,
    limits: Sequence[float] = (),
    price_per_hour: float | None = None,
    ratio_to: Mapping[str, float] | None = None,
) -> Row:
    """Sum up the rounds; `limits` are operations a second that the machine reached in each round."""
    speeds, seconds = runs.docs_per_s(), median(runs.seconds)
    docs_per_s = median(speeds)
    return Row(
        name=runs.name,
        docs_per_s=docs_per_s,
        tokens_per_s=docs_per_s * runs.num_tokens / runs.num_texts,
        padding_share=1 - runs.num_tokens / runs.slots if runs.slots else None,
        limit_share=_limit_share(runs, limits),
        peak_bytes=runs.peak_bytes,
        docs_per_s_low=min(speeds),
        docs_per_s_high=max(speeds),
        seconds=seconds,
        num_texts=runs.num_texts,
        num_tokens=runs.num_tokens,
        note=runs.note,
        max_prob_diff=runs.max_prob_diff,
        cost_per_million_texts=None if price_per_hour is None else price_per_hour / 3600 * 1e6 / docs_per_s,
        ratio_to=ratio_to or {},
    )


def _limit_share(runs: Runs, limits: Sequence[float]) -> float | None:
    if runs.flops is None or not limits:
        return None
    return median(runs.flops / seconds / limit for seconds, limit in zip(runs.seconds, limits, strict=True))


def ratio(ours: Runs, theirs: Runs) -> float:
    """How many times as many texts a second: the median over rounds."""
    return median(a / b for a, b in zip(ours.docs_per_s(), theirs.docs_per_s(), strict=True))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as a JSON list."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
