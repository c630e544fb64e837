"""Cells of a label column to a head's labels, by the head's kind. A value that is no label is an error, never a guess.

Truth has one form a kind, with texts along its first axis: codes (N) for one label of several; for any number of
them (N, C) of 1 (holds), 0 (doesn't) and `OPEN` (nobody knows); an object array (N) of sets of (start, end, label) for
spans. A cell may say less than the whole answer where the settings allow it: `4|5` with `any_of`, `?price` with
`open_mark`.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.evaluate.rows import EvaluateError
from jobs.evaluate.settings import LabelSettings, as_text

_LONGEST_SHOWN = 40  # a longer value is no label but perhaps a customer's text, which no message may hold
_MANY = 8
_TOO_MANY = 50  # different values that are no labels: the column is another one, perhaps that of the texts

ANY_OF = "|"
OPEN = -1

Truth = NDArray[Any]


@dataclass(frozen=True)
class Labelled:
    """Which rows have a label, and the labels of those alone, in their order.

    allowed : (rows, C) the answers that aren't wrong, of every row, where cells may allow several; such a row isn't
        known. None: no cell may.
    """

    known: NDArray[np.bool_]
    truth: Truth
    allowed: NDArray[np.bool_] | None = None


def read_codes(cells: Sequence[Any], allowed: Sequence[str], settings: LabelSettings, where: str) -> Labelled:
    """One label a row: its place in `allowed`. Null, empty, or mapped to null: no label."""
    code_of = {label: code for code, label in enumerate(allowed)}
    if settings.any_of:
        return _read_allowed(cells, code_of, settings, where)
    means = _meaning(cells, code_of, settings, where)
    codes = [None if cell is None else means[as_text(cell)] for cell in cells]
    known = np.array([code is not None for code in codes], np.bool_)
    return Labelled(known, np.array([code for code in codes if code is not None], np.int64))


def _read_allowed(cells: Sequence[Any], code_of: Mapping[str, int], settings: LabelSettings, where: str) -> Labelled:
    lists = [_alternatives(cell) for cell in cells]
    means = _meaning([item for items in lists for item in items], code_of, settings, where)
    allowed = np.zeros((len(cells), len(code_of)), np.bool_)
    for row, items in enumerate(lists):
        allowed[row, [code for item in items if (code := means[item]) is not None]] = True
    known = allowed.sum(axis=1) == 1
    return Labelled(known, allowed[known].argmax(axis=1), allowed)


def _alternatives(cell: Any) -> list[str]:
    return [] if cell is None else [part.strip() for part in as_text(cell).split(ANY_OF)]


def read_masks(cells: Sequence[Any], allowed: Sequence[str], settings: LabelSettings, where: str) -> Labelled:
    """Any number of labels a row, none included. A null cell is no label at all, an empty list says that none holds."""
    code_of = {label: code for code, label in enumerate(allowed)}
    lists = [
        None if cell is None else [_decision(i, settings) for i in _items(cell, settings, where)] for cell in cells
    ]
    held = [label for items in lists if items for label, decision in items if decision != OPEN]
    means = _meaning(held, code_of, settings, where)
    known = np.array([items is not None for items in lists], np.bool_)
    truth = np.zeros((int(known.sum()), len(allowed)), np.int8)
    for row, items in enumerate(items for items in lists if items is not None):
        for label, decision in sorted(items, key=lambda item: item[1]):  # what holds isn't open
            code = code_of.get(settings.values.get(label, label) or "") if decision == OPEN else means[label]
            if code is not None:  # of a label that the head hasn't, nothing is said by leaving it open
                truth[row, code] = decision
    return Labelled(known, truth)


def _decision(item: Any, settings: LabelSettings) -> tuple[str, int]:
    label, mark = as_text(item), settings.open_mark
    return (label[len(mark) :], OPEN) if mark and label.startswith(mark) else (label, 1)


def named_labels(cells: Sequence[Any], settings: LabelSettings) -> list[Any]:
    """Every cell as one that says its whole answer, so that a head's labels can be read off: for guesses of kind."""
    if settings.any_of:
        return [part for cell in cells for part in _alternatives(cell)]
    if settings.open_mark is None:
        return list(cells)
    mark = settings.open_mark
    lists = [None if cell is None else _items(cell, settings, "a label column") for cell in cells]
    return [None if items is None else [as_text(item).removeprefix(mark) for item in items] for items in lists]


def read_spans(cells: Sequence[Any], allowed: Sequence[str], settings: LabelSettings, where: str) -> Labelled:
    """Spans of each row: a list of [start, end, label], or of mappings with these keys; end is exclusive."""
    lists = [None if cell is None else [_span(item, where) for item in _items(cell, settings, where)] for cell in cells]
    names = {label: code for code, label in enumerate(allowed)}
    means = _meaning([label for spans in lists if spans for _, _, label in spans], names, settings, where)
    known = np.array([spans is not None for spans in lists], np.bool_)
    truth = np.empty(int(known.sum()), object)
    for row, spans in enumerate(spans for spans in lists if spans is not None):
        meant = ((start, end, means[as_text(label)]) for start, end, label in spans)
        truth[row] = frozenset((start, end, allowed[code]) for start, end, code in meant if code is not None)
    return Labelled(known, truth)


def _meaning(
    cells: Sequence[Any], code_of: Mapping[str, int], settings: LabelSettings, where: str
) -> dict[str, int | None]:
    """What each value that occurs means: a code, or None for one that is left out."""
    if wrong := sorted({label for label in settings.values.values() if label and label not in code_of}):
        raise EvaluateError(f"{where}: `values` maps to {wrong}; allowed are {', '.join(map(repr, code_of))}")
    found = Counter(as_text(cell) for cell in cells if cell is not None)
    means: dict[str, int | None] = {}
    unknown = []
    for value in found:
        label = settings.values.get(value, value)
        if not label:
            means[value] = None
        elif label in code_of:
            means[value] = code_of[label]
        else:
            unknown.append(value)
    if unknown:
        raise EvaluateError(_unknown(unknown, found, list(code_of), where))
    return means


def _unknown(unknown: Sequence[str], found: Mapping[str, int], allowed: Sequence[str], where: str) -> str:
    if len(unknown) > _TOO_MANY:
        return f"{where}: {len(unknown)} different values that are no labels, so the column seems to be a wrong one"
    shown = ", ".join(f"{_shown(value)} ({found[value]} times)" for value in unknown[:_MANY])
    more = f" and {len(unknown) - _MANY} more" if len(unknown) > _MANY else ""
    near = difflib.get_close_matches(unknown[0], allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return (
        f"{where}: no such label: {shown}{more}{hint} Allowed are {', '.join(map(repr, allowed))}; "
        "map others under `values`, or to null to leave their rows out"
    )


def _shown(value: str) -> str:
    return repr(value) if len(value) <= _LONGEST_SHOWN else f"a value of {len(value)} characters"


def _items(cell: Any, settings: LabelSettings, where: str) -> list[Any]:
    """The entries of a cell that holds several: a list, JSON text of one, or text with the separator."""
    if isinstance(cell, str) and settings.separator is not None:
        return [item for item in (part.strip() for part in cell.split(settings.separator)) if item]
    try:
        items = json.loads(cell) if isinstance(cell, str) else cell
    except json.JSONDecodeError:
        items = None
    if not isinstance(items, list):
        raise EvaluateError(f"{where}: a cell must hold a list, or JSON of one, or set `separator`, got {_kind(cell)}")
    return items


def _span(item: Any, where: str) -> tuple[int, int, Any]:
    values = [item.get(key) for key in ("start", "end", "label")] if isinstance(item, dict) else item
    if isinstance(values, list) and len(values) == 3:
        start, end, label = values
        if isinstance(start, int) and isinstance(end, int) and 0 <= start < end and label is not None:
            return start, end, label
    raise EvaluateError(f"{where}: a span must be [start, end, label] with 0 <= start < end, got {_kind(item)}")


def _kind(cell: Any) -> str:
    return _shown(cell) if isinstance(cell, str) else _shown(repr(cell))
