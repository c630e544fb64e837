"""What kind of head a column of labels is for, where nobody says so.

`token`    cells are lists of spans: [start, end, label], or mappings with these keys
`multi`    cells are lists, or some hold `|` between labels
`ordinal`  labels are the whole numbers 1 to k, none missing, k at most 10
`single`   all else: one label a text
Said in the log and the card; `heads.<name>.kind` overrules it. 0 and 1 are two classes, not grades: grades begin at 1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jobs.evaluate.settings import as_text
from jobs.finetune.settings import FinetuneError

SEPARATOR = "|"
MAX_GRADE = 10
MAX_LABELS = 1000

Kind = Literal["single", "ordinal", "multi", "token"]


@dataclass(frozen=True)
class Guess:
    """A kind, why it was taken, the labels that occur in order, and what parts several labels in a cell."""

    kind: Kind
    why: str
    labels: tuple[str, ...]
    separator: str | None = None


def guess(cells: Sequence[Any], where: str, kind: Kind | Literal["auto"] = "auto") -> Guess:
    """Look at all cells of a column; with `kind` only its labels are looked for.

    Raises
    ------
    FinetuneError : no label at all, only one, far too many for labels, or lists beside other cells.
    """
    known = [cell for cell in cells if cell is not None and cell != ""]
    if not known:
        raise FinetuneError(f"{where}: not one of {len(cells)} rows has a label")
    lists = [found for cell in known if (found := _as_list(cell)) is not None]
    if len(lists) == len(known):
        return _of_lists(lists, where, kind)
    if lists:
        raise FinetuneError(
            f"{where}: {len(lists)} of {len(known)} labelled rows hold a list, the others don't; give all one form"
        )
    texts = [as_text(cell) for cell in known]
    is_multi = kind == "multi" or (kind == "auto" and any(SEPARATOR in text for text in texts))
    if is_multi:
        labels = {part.strip() for text in texts for part in text.split(SEPARATOR)} - {""}
        return Guess("multi", f"cells hold labels parted by {SEPARATOR!r}", _ordered(labels, where, 1), SEPARATOR)
    ordered = _ordered(set(texts), where, 2)
    if kind == "ordinal" or (kind == "auto" and _are_grades(ordered)):
        return Guess("ordinal", f"labels are the numbers {ordered[0]} to {ordered[-1]}", ordered)
    return Guess("single", "one label a text", ordered)


def _of_lists(lists: Sequence[list[Any]], where: str, kind: Kind | Literal["auto"]) -> Guess:
    items = [item for items in lists for item in items]
    names = [_span_label(item) for item in items]
    if kind == "token" or (kind == "auto" and items and None not in names):
        labels = {as_text(name) for name in names if name is not None}
        return Guess("token", "cells are lists of spans", _ordered(labels, where, 1))
    return Guess("multi", "cells are lists of labels", _ordered({as_text(item) for item in items}, where, 1))


def _as_list(cell: Any) -> list[Any] | None:
    if isinstance(cell, str) and cell.startswith("["):
        try:
            cell = json.loads(cell)
        except json.JSONDecodeError:
            return None
    return cell if isinstance(cell, list) else None


def _span_label(item: Any) -> Any:
    if isinstance(item, dict):
        return item.get("label")
    return item[2] if isinstance(item, list) and len(item) == 3 and isinstance(item[0], int) else None


def _ordered(labels: set[str], where: str, at_least: int) -> tuple[str, ...]:
    if len(labels) < at_least:
        held = f"all labelled rows have the label {next(iter(labels))!r}" if labels else "no row has a label"
        raise FinetuneError(f"{where}: {held}; at least {at_least} different labels are needed")
    if len(labels) > MAX_LABELS:
        raise FinetuneError(f"{where}: {len(labels)} different values; is this a column of labels?")
    return tuple(sorted(labels, key=_rank))


def _rank(label: str) -> tuple[float, str]:
    """Numbers by their value, before words."""
    try:
        return float(label), label
    except ValueError:
        return float("inf"), label


def _are_grades(labels: Sequence[str]) -> bool:
    return len(labels) <= MAX_GRADE and list(labels) == [str(grade) for grade in range(1, len(labels) + 1)]
