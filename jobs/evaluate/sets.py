"""A set, ready to be measured: the rows to evaluate, those the baseline may learn from, labels, and what is odd.

Odd is counted and said, never repaired: texts that stand in both parts or twice, equal texts with different labels,
rows without a label. Texts are compared clean.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.evaluate.kinds import KINDS, label_names
from jobs.evaluate.labels import Labelled, Truth
from jobs.evaluate.rows import EvaluateError, Rows, read_rows
from jobs.evaluate.settings import EvaluateSettings, SetSettings
from models.clean import clean_with_offsets
from models.heads import HeadSpec

Places = NDArray[np.int64]


@dataclass(frozen=True)
class HeadLabels:
    """Labels of one head: of the evaluated and the training rows, and ids of equal texts that differ in them."""

    head: HeadSpec
    evaluated: Labelled
    training: Labelled
    contradictory: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class LoadedSet:
    """A set in memory.

    num_held_out : evaluated rows before any were left out by `max_texts`.
    seen : which evaluated texts also stand in the set's other rows.
    num_repeated : evaluated texts beyond the first of each.
    """

    name: str
    settings: SetSettings
    rows: Rows
    training: Rows
    labels: tuple[HeadLabels, ...]
    num_rows: int
    num_held_out: int
    seen: NDArray[np.bool_]
    num_repeated: int


def load_set(name: str, settings: EvaluateSettings, heads: Sequence[HeadSpec]) -> LoadedSet:
    """Read a set and its labels.

    Raises
    ------
    EvaluateError : a head that the bundle hasn't, a value that isn't a label, no row to evaluate.
    """
    own = settings.sets[name]
    rows = read_rows(own)
    held_out = _held_out(name, own, rows)
    evaluated, training = _drawn(held_out, settings), _training(own, rows, settings)
    parts = (evaluated, training)
    others = {text for text, is_ours in zip(rows.texts, held_out, strict=True) if not is_ours}
    texts = [rows.texts[place] for place in evaluated]
    return LoadedSet(
        name=name,
        settings=own,
        rows=rows.take(evaluated),
        training=rows.take(training),
        labels=tuple(_head_labels(name, own, head, rows, parts) for head in _labelled(name, own, heads)),
        num_rows=len(rows),
        num_held_out=int(held_out.sum()),
        seen=np.array([text in others for text in texts], np.bool_),
        num_repeated=len(texts) - len(set(texts)),
    )


def _labelled(name: str, own: SetSettings, heads: Sequence[HeadSpec]) -> list[HeadSpec]:
    """Heads that the set has labels for."""
    known = {head.name: head for head in heads if head.kind in KINDS}
    if unknown := own.labels.keys() - known.keys():
        raise EvaluateError(f"sets.{name}.labels: the bundle has no head {sorted(unknown)}; it has {sorted(known)}")
    return [known[head] for head in own.labels]


def _held_out(name: str, own: SetSettings, rows: Rows) -> NDArray[np.bool_]:
    if own.split is None:
        chosen = np.ones(len(rows), np.bool_)
        found = f"{own.input} has no row that can be scored"
    else:
        chosen = rows.where(own.split.column, own.split.value)
        values = Counter(map(str, rows.columns[own.split.column])).most_common(8)
        found = f"no row of {own.input} has {own.split.value!r} in {own.split.column!r}; it holds {dict(values)}"
    if not chosen.any():
        raise EvaluateError(f"sets.{name}: {found}; left out: {rows.rejected or 'none'}")
    return chosen


def _drawn(held_out: NDArray[np.bool_], settings: EvaluateSettings) -> Places:
    """Places of the rows that are evaluated, in the set's order."""
    places = np.flatnonzero(held_out)
    if settings.max_texts is None or len(places) <= settings.max_texts:
        return places
    return np.sort(np.random.default_rng(settings.seed).choice(places, settings.max_texts, replace=False))


def _training(own: SetSettings, rows: Rows, settings: EvaluateSettings) -> Places:
    if settings.baseline is None or own.split is None or settings.baseline.train_split == own.split.value:
        return np.zeros(0, np.int64)
    return np.flatnonzero(rows.where(own.split.column, settings.baseline.train_split))


def _head_labels(name: str, own: SetSettings, head: HeadSpec, rows: Rows, parts: tuple[Places, Places]) -> HeadLabels:
    """Labels of all rows are read, so that a wrong one is found wherever it stands."""
    label = own.labels[head.name]
    where = f"sets.{name}.labels.{head.name} (column {label.column!r})"
    labelled = KINDS[head.kind].read(rows.columns[label.column], label_names(head), label, where)
    if head.kind == "token":
        labelled = _in_clean_text(labelled, rows)
    evaluated, training = (_part(labelled, places) for places in parts)
    return HeadLabels(head, evaluated, training, _contradictory(np.flatnonzero(labelled.known), labelled.truth, rows))


def _part(labelled: Labelled, places: Places) -> Labelled:
    """The labels of some rows, by their places."""
    row_of = np.cumsum(labelled.known) - 1
    known = labelled.known[places]
    return Labelled(known, labelled.truth[row_of[places][known]])


def _in_clean_text(labelled: Labelled, rows: Rows) -> Labelled:
    """Spans are told in characters of the text as found, answers in those of the clean text."""
    truth = labelled.truth.copy()
    for row, place in enumerate(np.flatnonzero(labelled.known)):
        if rows.raw[place] != rows.texts[place]:
            truth[row] = _moved(truth[row], rows.raw[place])
    return Labelled(labelled.known, truth)


def _moved(spans: frozenset[tuple[int, int, str]], raw: str) -> frozenset[tuple[int, int, str]]:
    """A span of which cleaning leaves nothing is left out: nobody could find it."""
    cleaned = clean_with_offsets(raw)
    moved = set()
    for start, end, label in spans:
        inside = np.flatnonzero((cleaned.starts < end) & (cleaned.ends > start))
        if len(inside):
            moved.add((int(inside[0]), int(inside[-1]) + 1, label))
    return frozenset(moved)


def _contradictory(places: Places, truth: Truth, rows: Rows) -> tuple[tuple[str, ...], ...]:
    """Ids of labelled rows of one text whose labels differ, a group a text."""
    groups: dict[str, list[int]] = defaultdict(list)
    for row, place in enumerate(places):
        groups[rows.texts[place]].append(row)
    differing = (group for group in groups.values() if len({_comparable(truth[row]) for row in group}) > 1)
    return tuple(tuple(rows.ids[places[row]] for row in group) for group in differing)


def _comparable(label: Any) -> Any:
    return label.tobytes() if isinstance(label, np.ndarray) else label
