"""The rows of a set: files in any store to ids, clean texts and the other columns asked for.

Read by the readers of the scoring job, so that a row that can't be scored there (broken, empty once cleaned) isn't
measured here either, but counted with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.evaluate.settings import SetSettings, as_text
from jobs.reading.columns import Columns
from jobs.reading.listing import list_input
from jobs.reading.parts import UnitLimits
from jobs.reading.plan import plan_spans
from jobs.reading.read import read_span
from jobs.reading.rejects import Reason
from models.clean import clean


class EvaluateError(ValueError):
    """A set, a label or a threshold that can't be used; the message names it and what would be right."""


@dataclass(frozen=True)
class Rows:
    """N rows: ids (or places), texts as found and clean, columns asked for by source name; why others were left out."""

    ids: list[str]
    raw: list[str]
    texts: list[str]
    columns: dict[str, list[Any]]
    rejected: dict[str, int]

    def __len__(self) -> int:
        return len(self.texts)

    def where(self, column: str, value: str) -> NDArray[np.bool_]:
        """Mark the rows whose `column` holds `value`."""
        return np.array([cell is not None and as_text(cell) == value for cell in self.columns[column]], np.bool_)

    def take(self, places: NDArray[np.integer]) -> Rows:
        """Some of the rows."""
        return Rows(
            ids=[self.ids[place] for place in places],
            raw=[self.raw[place] for place in places],
            texts=[self.texts[place] for place in places],
            columns={name: [cells[place] for place in places] for name, cells in self.columns.items()},
            rejected=self.rejected,
        )


def read_rows(settings: SetSettings) -> Rows:
    """Read and clean a set.

    Raises
    ------
    ValueError, OSError : nothing is there, it can't be read, or a column is missing.
    """
    sources = _sources(settings)
    columns = Columns(settings.id or settings.text, settings.text, tuple((f"kept_{name}", name) for name in sources))
    ids: list[str] = []
    raw: list[str] = []
    kept: dict[str, list[Any]] = {name: [] for name in sources}
    rejected: Counter[str] = Counter()
    for path, table in _tables(settings, columns, rejected):
        ids += table["id"].to_pylist() if settings.id else _places(table, path)
        raw += table["text"].to_pylist()
        for name in sources:
            kept[name] += table[f"kept_{name}"].to_pylist()
    return _without_empty(Rows(ids, raw, [clean(text) for text in raw], kept, dict(rejected)))


def _sources(settings: SetSettings) -> tuple[str, ...]:
    """Every column that is read beside id and text, once."""
    labels = [label.column for label in settings.labels.values()]
    split = [settings.split.column] if settings.split else []
    time = [settings.time] if settings.time else []
    return tuple(dict.fromkeys([*labels, *split, *settings.slices, *time]))


def _tables(settings: SetSettings, columns: Columns, rejected: Counter[str]) -> Iterator[tuple[str, pa.Table]]:
    """Good rows, part by part, with the path to name them by (empty for a single file); counts the rejected ones."""
    files = list_input(settings.input, settings.format).files
    for span in plan_spans(files, columns).spans:
        for part in read_span(span, columns, UnitLimits()):
            rejected.update(part.rejected["reason"].to_pylist())
            yield (span.file.path if len(files) > 1 else "", part.rows)


def _places(table: pa.Table, path: str) -> list[str]:
    """Names of rows that have no id: `row 7`, `part-2.csv row 7`, or by byte where the row is unknown."""
    pairs = zip(table["row"].to_pylist(), table["byte"].to_pylist(), strict=True)
    return [f"{path} row {row}".strip() if row is not None else f"{path} byte {byte}".strip() for row, byte in pairs]


def _without_empty(rows: Rows) -> Rows:
    full = np.array([bool(text) for text in rows.texts], np.bool_)
    num_empty = int(len(full) - full.sum())
    if num_empty:
        rows.rejected[Reason.EMPTY_TEXT] = rows.rejected.get(Reason.EMPTY_TEXT, 0) + num_empty
    return rows.take(np.flatnonzero(full)) if num_empty else rows
