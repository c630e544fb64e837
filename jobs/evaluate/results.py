"""What an evaluation says, as plain data: `evaluation.json` is this, and both pages are made of nothing else.

No text of a customer is in it: rows go by their ids.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from jobs.evaluate.bootstrap import Figure
from models.gates import Record


@dataclass(frozen=True)
class SystemFigures:
    """A system's figures by metric, and how much better the evaluated bundle is (paired; below zero: worse)."""

    system: str
    figures: dict[str, Figure]
    gains: dict[str, Figure]


@dataclass(frozen=True)
class SliceFigures:
    """The headline metric over the texts of one slice, by system."""

    by: str
    value: str
    num_texts: int
    figures: dict[str, Figure]


@dataclass(frozen=True)
class Bin:
    """Texts whose answer sounded about equally sure: how sure on average, and which share was right."""

    num_texts: int
    sure: float
    right: float


@dataclass(frozen=True)
class HeadResult:
    """One head on one set. `confusion[i][j]`: texts of label i answered j; empty for several labels and spans."""

    head: str
    kind: str
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    num_texts: int
    num_unlabelled: int
    num_training: int
    contradictory: tuple[tuple[str, ...], ...]
    headline: str
    systems: tuple[SystemFigures, ...]
    confusion: tuple[tuple[int, ...], ...]
    bins: tuple[Bin, ...]
    slices: tuple[SliceFigures, ...]


@dataclass(frozen=True)
class SetResult:
    """One set: its rows, what was left out and why, and its heads."""

    name: str
    input: str
    num_rows: int
    rejected: dict[str, int]
    num_held_out: int
    num_evaluated: int
    num_seen: int
    num_repeated: int
    heads: tuple[HeadResult, ...]


@dataclass(frozen=True)
class Speed:
    """From clean text to answers, in one process."""

    system: str
    num_texts: int
    seconds: float
    texts_per_s: float
    cost_per_million: float | None


@dataclass(frozen=True)
class Threshold:
    """One entry of the gate."""

    set: str
    head: str
    metric: str
    wanted: float
    found: float
    lower_is_better: bool
    passed: bool


@dataclass(frozen=True)
class Evaluation:
    """All of it. `passed`: every threshold is reached, and every precision asked for is within the rule."""

    bundle: str
    compared_with: str | None
    measured_at: str
    code_revision: str
    machine: str
    seed: int
    sets: tuple[SetResult, ...]
    speeds: tuple[Speed, ...]
    thresholds: tuple[Threshold, ...]
    precisions: dict[str, Record]

    @property
    def passed(self) -> bool:
        """The verdict."""
        return all(one.passed for one in self.thresholds) and all(one.passed for one in self.precisions.values())

    def to_json(self) -> str:
        """Indented JSON; what isn't a number is null."""
        records = {precision: record.model_dump(mode="json") for precision, record in self.precisions.items()}
        plain = {**asdict(self), "precisions": records, "passed": self.passed}
        return json.dumps(_plain(plain), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
