"""What each kind of head is measured by: its labels, its metrics, its agreement between two systems.

The first metric of a kind is its headline, the one that slices are told in. A sentiment head on a set that knows no
neutral answers with the likelier of the other two: such sets of reviews leave neutral out, so it is left out on both
sides. Embeddings have no labels and aren't measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.evaluate.answers import Answers
from jobs.evaluate.labels import OPEN, Labelled, Truth, read_codes, read_masks, read_spans
from jobs.evaluate.metrics import (
    Mask,
    Metric,
    accuracy,
    calibration_error,
    macro_f1,
    mean_error,
    micro_f1,
    one_hot,
    span_f1,
)
from jobs.evaluate.settings import LabelSettings
from models.heads import SENTIMENT, HeadSpec
from models.tags import tag_names

NEUTRAL = "neutral"


@dataclass(frozen=True)
class Kind:
    """How heads of one kind are measured."""

    read: Callable[[Sequence[Any], Sequence[str], LabelSettings, str], Labelled]
    metrics: Callable[[HeadSpec, Truth, Answers], list[Metric]]
    metric_names: tuple[str, ...]


def label_names(head: HeadSpec) -> tuple[str, ...]:
    """What a label of the head can be: of spans without the tags' prefixes."""
    return tag_names(head.labels) if head.kind == "token" else head.labels


def is_two_way(head: HeadSpec, truth: Truth) -> bool:
    """Whether a sentiment head meets a set without a neutral text."""
    return head.name == SENTIMENT and NEUTRAL in head.labels and not (truth == head.labels.index(NEUTRAL)).any()


def without_neutral(head: HeadSpec, answers: Answers) -> Answers:
    """Answers as if neutral couldn't be said; the others share its probability."""
    assert answers.probs_nc is not None
    probs = answers.probs_nc.copy()
    probs[:, head.labels.index(NEUTRAL)] = 0
    probs /= np.maximum(probs.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return Answers(probs.argmax(axis=1), probs)


def agreement(one: Answers, other: Answers) -> Mask:
    """Which texts get the same label from both; where there may be several, the same ones all."""
    same: Mask = np.asarray(one.labels == other.labels, np.bool_)
    return np.logical_and.reduce(same, axis=1) if same.ndim == 2 else same


def targets(head: HeadSpec, truth: Truth) -> Truth | None:
    """Truth as N x C of 1, 0 and `OPEN`, for a method that learns each label for itself; None for spans."""
    if head.kind == "token":
        return None
    return truth if head.kind == "multi" else one_hot(truth, len(head.labels)).astype(np.int8)


def _single(head: HeadSpec, truth: Truth, answers: Answers) -> list[Metric]:
    num = len(head.labels)
    metrics = [accuracy(answers.labels == truth), macro_f1(one_hot(truth, num), one_hot(answers.labels, num))]
    if (polar := _polar(head, truth)) is not None:
        is_right = without_neutral(head, answers).labels == truth
        metrics.append(accuracy(is_right, polar, "two_way_accuracy"))
    return [*metrics, _calibration(truth, answers)]


def _ordinal(head: HeadSpec, truth: Truth, answers: Answers) -> list[Metric]:
    assert answers.probs_nc is not None
    grades = head.grades().astype(np.float64)
    errors = np.abs(answers.probs_nc @ grades - grades[truth])
    error = mean_error(errors, float(grades.max() - grades.min()))
    return [error, accuracy(answers.labels == truth), _calibration(truth, answers)]


def _multi(head: HeadSpec, truth: Truth, answers: Answers) -> list[Metric]:
    """An answer where the truth is open counts neither for nor against."""
    held, answered = truth > 0, answers.labels & (truth != OPEN)
    counts = [mask.sum(axis=1).astype(np.float64) for mask in (held & answered, held, answered)]
    return [macro_f1(held, answered), micro_f1(*counts)]


def _token(head: HeadSpec, truth: Truth, answers: Answers) -> list[Metric]:
    return [span_f1(truth, answers.labels, with_label=with_label) for with_label in (True, False)]


def _polar(head: HeadSpec, truth: Truth) -> Mask | None:
    """Texts that aren't neutral, where a sentiment head meets both sorts."""
    if head.name != SENTIMENT or NEUTRAL not in head.labels:
        return None
    polar: NDArray[np.bool_] = truth != head.labels.index(NEUTRAL)
    return polar if polar.any() and not polar.all() else None


def _calibration(truth: Truth, answers: Answers) -> Metric:
    assert answers.probs_nc is not None
    return calibration_error(answers.probs_nc.max(axis=1), answers.labels == truth)


KINDS = {
    "single": Kind(read_codes, _single, ("accuracy", "macro_f1", "two_way_accuracy", "calibration_error")),
    "ordinal": Kind(read_codes, _ordinal, ("mean_error", "accuracy", "calibration_error")),
    "multi": Kind(read_masks, _multi, ("macro_f1", "micro_f1")),
    "token": Kind(read_spans, _token, ("span_f1", "place_f1")),
}
