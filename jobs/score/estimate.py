"""A guess at the size of a plan, from the first rows of a few of its spans. Compressed lines aren't guessed at."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.reading.columns import Columns
from jobs.reading.parts import UnitLimits
from jobs.reading.read import read_span
from jobs.reading.streams import BLOCK_BYTES, open_plain
from jobs.score.plan import Plan
from jobs.score.recipe import SpanTask
from jobs.score.tokenise import tokenise
from models.bundle import Bundle

_NUM_SPANS = 5
_SAMPLE = UnitLimits(rows=200)


def num_rows(plan: Plan) -> int | None:
    """Rows left to read: known for Parquet, else guessed by the length of some lines; None if that can't be done."""
    if plan.num_rows is not None:
        return plan.num_rows
    if any(task.span.file.compression for task in plan.tasks):
        return None
    lines = num_bytes = 0
    for task in _some(plan.tasks):
        with open_plain(task.span.file, at=task.span.start) as stream:
            block = stream.read(BLOCK_BYTES)
        lines += block.count(b"\n")
        num_bytes += len(block)
    return round(plan.num_bytes * lines / num_bytes) if num_bytes else 0


def tokens_per_row(tasks: Sequence[SpanTask], columns: Columns, bundle: Bundle) -> float | None:
    """Mean tokens of a verbatim in the first rows of some spans; None if there are no rows."""
    rows = tokens = 0
    for task in _some(tasks):
        part = next(read_span(task.span, columns, _SAMPLE))
        unit = tokenise(part, "sample", task.span.file.path, columns, bundle.tokeniser)
        lengths = unit.texts["ids"].combine_chunks().value_lengths()
        rows += unit.rows.num_rows
        tokens += sum(lengths.take(unit.rows["text"].combine_chunks()).to_pylist())
    return tokens / rows if rows else None


def _some(tasks: Sequence[SpanTask]) -> Sequence[SpanTask]:
    return tasks[:: max(1, len(tasks) // _NUM_SPANS)][:_NUM_SPANS]
