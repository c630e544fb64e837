"""Parts of a set that figures are also given for: language, length, quarter, the columns asked for, seen texts.

A column's commonest values are slices; the rest are one more, so that a column of ids can't make a page of a thousand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.evaluate.rows import EvaluateError
from jobs.evaluate.sets import LoadedSet
from jobs.evaluate.settings import as_text
from models.language import tag

LENGTHS = (20, 50, 100, 200, 500)  # characters: where a length bucket ends
MAX_VALUES = 20

Slice = tuple[str, str, NDArray[np.bool_]]  # by what, which value, which evaluated rows


def slices(loaded: LoadedSet) -> Iterator[Slice]:
    """Slices of the evaluated rows; a dimension that has one value alone is left out."""
    texts, columns = loaded.rows.texts, loaded.rows.columns
    yield from _by_value("language", [tag(text) for text in texts])
    yield from _by_length([len(text) for text in texts])
    for column in loaded.settings.slices:
        yield from _by_value(column, ["(none)" if cell is None else as_text(cell) for cell in columns[column]])
    if loaded.settings.time:
        quarters = [_quarter(cell, loaded) for cell in columns[loaded.settings.time]]
        yield from sorted(_by_value("quarter", quarters), key=lambda part: part[1])
    if loaded.seen.any():
        yield from _by_value("seen in another part", ["yes" if seen else "no" for seen in loaded.seen])


def _by_value(by: str, values: Sequence[str]) -> Iterator[Slice]:
    common = [value for value, _ in Counter(values).most_common()]
    if len(common) < 2:
        return
    array = np.array(values, object)
    for value in common[:MAX_VALUES]:
        yield by, value, np.asarray(array == value, np.bool_)
    if len(common) > MAX_VALUES:
        rest = f"{len(common) - MAX_VALUES} others"
        yield by, rest, ~np.isin(array.astype(str), np.array(common[:MAX_VALUES]))


def _by_length(lengths: Sequence[int]) -> Iterator[Slice]:
    buckets = np.digitize(np.array(lengths), LENGTHS)
    found = np.unique(buckets)
    if len(found) < 2:
        return
    for bucket in found:
        floor = LENGTHS[bucket - 1] if bucket else 1
        name = f"{floor} to {LENGTHS[bucket] - 1}" if bucket < len(LENGTHS) else f"{floor} and more"
        yield "characters", name, buckets == bucket


def _quarter(cell: Any, loaded: LoadedSet) -> str:
    """For example `2024 Q1`; times in text are ISO 8601."""
    if cell is None:
        return "(none)"
    try:
        when = cell if isinstance(cell, date) else datetime.fromisoformat(str(cell))
    except ValueError as error:
        where = f"sets.{loaded.name}.time: column {loaded.settings.time!r}"
        raise EvaluateError(f"{where} must hold times as ISO 8601 (2024-03-31), and one value doesn't") from error
    return f"{when.year} Q{(when.month + 2) // 3}"
