"""One row a measurement, as it is printed and written to JSON, and the targets beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobs.benchmark.serve.summary import Summary
from jobs.benchmark.serve.truth import Checked


@dataclass(frozen=True)
class ServeRow:
    """One measurement of one server.

    `texts_per_s` counts answered texts in the window; `share` is of the engine's (saturation), of the capacity
    (overload), or null; `ratio_to` is how many times as many as a peer's. Latencies are milliseconds from the moment
    a request was due, `refusal_…` those of refusals; `late_ms` is what a request waited in the generator (p99).
    `generator_share` is of one core. `memory_…_bytes` are those of all the server's processes. Null: not measured.
    """

    part: str
    server: str
    size: int
    texts_per_s: float
    share: float | None = None
    rate: float | None = None
    num_requests: int = 0
    num_answered: int = 0
    num_refused: int = 0
    num_failed: int = 0
    num_lost: int = 0
    num_wrong: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    refusal_p50_ms: float | None = None
    refusal_p99_ms: float | None = None
    late_ms: float | None = None
    generator_share: float | None = None
    memory_first_bytes: int | None = None
    memory_last_bytes: int | None = None
    max_prob_diff: float | None = None
    note: str = ""
    ratio_to: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """What was aimed at, and what was measured; `is_met` None: there is nothing to be met."""

    name: str
    aim: str
    measured: str
    is_met: bool | None


def make_row(part: str, server: str, size: int, summary: Summary, checked: Checked) -> ServeRow:
    """A row of what was fired and how right the answers were."""
    plain: dict[str, Any] = asdict(summary)
    texts_per_s = size * plain.pop("requests_per_s")
    wrong, difference = checked.num_wrong, checked.max_difference
    return ServeRow(part, server, size, texts_per_s, num_wrong=wrong, max_prob_diff=difference, **plain)


def write_rows(path: Path, rows: Sequence[ServeRow]) -> None:
    """Write rows as a JSON list."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
