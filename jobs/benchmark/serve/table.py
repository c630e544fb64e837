"""What a person reads: a line a measurement, then each target with what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.benchmark.serve.row import ServeRow, Target
from jobs.benchmark.table import aligned

_HEADINGS = (
    "measurement",
    "texts/req",
    "texts/s",
    "share",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "requests",
    "429",
    "429 p99",
    "failed",
    "lost",
    "wrong",
    "client",
)
_WORDS = {True: "met", False: "MISSED", None: "-"}


def table(rows: Sequence[ServeRow]) -> str:
    """The rows in the order measured, their notes below."""
    lines = aligned([_HEADINGS, *map(_cells, rows)])
    notes = [f"{row.part}, {row.size} a request, {row.server}: {row.note}" for row in rows if row.note]
    return "\n".join([*lines, "", *notes])


def targets_table(targets: Sequence[Target]) -> str:
    """A line each."""
    body = [(target.name, target.aim, target.measured, _WORDS[target.is_met]) for target in targets]
    return "\n".join(aligned([("target", "aim", "measured", ""), *body], left=3)) if targets else ""


def _cells(row: ServeRow) -> tuple[str, ...]:
    return (
        f"{row.part} {row.server}",
        str(row.size),
        f"{row.texts_per_s:,.0f}" if row.texts_per_s >= 100 else f"{row.texts_per_s:.1f}",
        "-" if row.share is None else f"{row.share:.1%}",
        _ms(row.p50_ms),
        _ms(row.p95_ms),
        _ms(row.p99_ms),
        f"{row.num_requests:,}",
        f"{row.num_refused:,}",
        _ms(row.refusal_p99_ms),
        str(row.num_failed),
        str(row.num_lost),
        str(row.num_wrong),
        "-" if row.generator_share is None else f"{row.generator_share:.0%}",
    )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
