"""Which heads are learnt: those the parent has already, with its labels, and new ones, whose kind is guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.evaluate.settings import LabelSettings, as_text
from jobs.finetune.guess import SEPARATOR, Guess, guess
from jobs.finetune.settings import FinetuneError, HeadSettings
from jobs.finetune.spans import tag_labels
from models.bundle import Bundle
from models.heads import HeadSpec

Column = tuple[Sequence[Any], LabelSettings]  # cells, and what they mean


@dataclass(frozen=True)
class LearntHead:
    """A head to learn: what it will be, how, why it is of that kind, and whether the parent has it already.

    `separator` parts several labels in one cell; None: cells are lists.
    """

    spec: HeadSpec
    settings: HeadSettings
    why: str
    is_known: bool
    separator: str | None = None


def choose_head(name: str, columns: Sequence[Column], settings: HeadSettings, parent: Bundle) -> LearntHead:
    """Find out what a head is from all columns that label it.

    Raises
    ------
    FinetuneError : no label, one label only, or another kind than the parent's head of that name.
    """
    cells = [_meant(cell, label) for own, label in columns for cell in own]
    known = next((head for head in parent.spec.heads if head.name == name), None)
    if known is None:
        found = guess(cells, f"head {name}", settings.kind)
        why = found.why if settings.kind == "auto" else "set so"
        return LearntHead(_spec(name, found, settings), settings, why, False, found.separator)
    if known.kind == "embedding" or settings.kind not in ("auto", known.kind) or _labels_differ(settings, known):
        raise FinetuneError(
            f"head {name} is {known.kind} in {parent}, with labels of its own; name yours otherwise (head=my_{name})"
        )
    is_parted = known.kind == "multi" and any(isinstance(cell, str) and not cell.startswith("[") for cell in cells)
    return LearntHead(known, settings, f"a head of {parent}", True, SEPARATOR if is_parted else None)


def _labels_differ(settings: HeadSettings, known: HeadSpec) -> bool:
    """Whether the settings ask for other labels, or in another order, than a head has."""
    if settings.labels is None:
        return False
    return known.labels != (tag_labels(settings.labels) if known.kind == "token" else tuple(settings.labels))


def _meant(cell: Any, label: LabelSettings) -> Any:
    """What a cell of one label means; lists stay as they are."""
    return cell if cell is None or isinstance(cell, list) else label.values.get(as_text(cell), cell)


def _spec(name: str, found: Guess, settings: HeadSettings) -> HeadSpec:
    labels = tuple(settings.labels) if settings.labels else found.labels
    if found.kind == "token":
        return HeadSpec(name=name, kind="token", labels=tag_labels(labels), scheme="IOB2")
    return HeadSpec(name=name, kind=found.kind, labels=labels, pooling=settings.pooling)
