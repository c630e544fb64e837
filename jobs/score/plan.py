"""What a run has to do: the input's spans, less what the set of scores already holds and what can't be read.

Two listings are enough, the input's and the scores'; finished input isn't opened again, but for the footers of Parquet
files, which say how many rows there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs.reading.badfiles import BadFile
from jobs.reading.spans import Span
from jobs.score.layout import Done, span_name
from jobs.score.ledger import Execution
from jobs.score.recipe import SpanTask


@dataclass(frozen=True)
class Plan:
    """The work of a run.

    `tasks`: spans with missing units. `finished`: spans whose units all exist. `bad`: spans that can't be read and are
    rejected whole. `valid`: units in the set that belong to readable input as it is now. `superseded`: all others.
    """

    tasks: tuple[SpanTask, ...]
    finished: tuple[Span, ...]
    bad: Mapping[str, BadFile]
    valid: tuple[str, ...]
    superseded: tuple[str, ...]

    @property
    def num_files(self) -> int:
        """Files with work left."""
        return len({task.span.file.path for task in self.tasks})

    @property
    def num_bytes(self) -> int:
        """Stored size of what is left to read."""
        return sum(task.num_bytes for task in self.tasks)

    @property
    def num_rows(self) -> int | None:
        """Rows left, done parts of unfinished spans included; None if a format doesn't say."""
        return sum_rows([task.span for task in self.tasks])


def sum_rows(spans: Sequence[Span]) -> int | None:
    """Rows of spans as the files themselves say; None if one doesn't."""
    counts = [span.num_rows for span in spans]
    return None if None in counts else sum(count or 0 for count in counts)


def make_plan(spans: Sequence[Span], execution: Execution, done: Done, bad_spans: Mapping[str, BadFile]) -> Plan:
    """Subtract what is done and what is known to be bad from what there is.

    A file is bad as a whole: if one of its spans is, none is read, and units that it gave are superseded.
    """
    bounds = {"rows": execution.unit_rows, "text_bytes": execution.unit_text_bytes}
    named = [(span, span_name(span, bounds)) for span in spans]
    bad_paths = {span.file.path: bad_spans[name.span] for span, name in named if name.span in bad_spans}
    readable = [(span, name) for span, name in named if span.file.path not in bad_paths]
    spans_of = Counter(span.file.path for span, _ in readable)
    known = {name.span for _, name in readable}
    valid = {unit for unit in done.names if _span_of(unit) in known}
    return Plan(
        tasks=tuple(
            SpanTask(span, name, span.file.size_bytes // spans_of[span.file.path], done.of_span(name))
            for span, name in readable
            if not done.is_complete(name)
        ),
        finished=tuple(span for span, name in readable if done.is_complete(name)),
        bad={name.span: bad_paths[span.file.path] for span, name in named if span.file.path in bad_paths},
        valid=tuple(sorted(valid)),
        superseded=tuple(sorted(done.names - valid)),
    )


def spans_of_file(tasks: Sequence[SpanTask], file: BadFile) -> dict[str, BadFile]:
    """The tasks' spans of a file that turned out bad, as `make_plan` takes them."""
    return {task.name.span: file for task in tasks if task.span.file.path == file.path}


def _span_of(unit: str) -> str:
    return unit.split("-")[1]
