"""One head of one set, measured for all systems that answered: figures, differences, confusion, calibration, slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.evaluate.answers import Answers
from jobs.evaluate.bootstrap import Figure, Resampled, difference, resample
from jobs.evaluate.kinds import KINDS, is_two_way, label_names, without_neutral
from jobs.evaluate.labels import Truth
from jobs.evaluate.metrics import NUM_BINS, Metric, calibration_bin
from jobs.evaluate.results import Bin, HeadResult, SliceFigures, SystemFigures
from jobs.evaluate.sets import HeadLabels
from jobs.evaluate.slices import Slice
from models.heads import HeadSpec

TWO_WAY = "the set has no neutral text: neutral is left out of the answers too"


@dataclass(frozen=True)
class Measured:
    """Metrics of each system over the labelled texts, the evaluated bundle first."""

    labels: HeadLabels
    answers: Mapping[str, Answers]
    metrics: Mapping[str, Sequence[Metric]]


def measure(labels: HeadLabels, answers: Mapping[str, Answers]) -> Measured:
    """Hold each system's answers, one an evaluated row, against the labels there are."""
    head, truth = labels.head, labels.evaluated.truth
    fitting = {system: _fitting(head, truth, own.take(labels.evaluated.known)) for system, own in answers.items()}
    metrics = {system: KINDS[head.kind].metrics(head, truth, own) for system, own in fitting.items()}
    return Measured(labels, fitting, metrics)


def report(measured: Measured, slices: Sequence[Slice], notes: Sequence[str], seed: int) -> HeadResult:
    """Figures with intervals, for the page."""
    labels = measured.labels
    head, truth = labels.head, labels.evaluated.truth
    ours = next(iter(measured.answers.values()))
    has_labels = len(truth) > 0
    two_way = [TWO_WAY] if has_labels and is_two_way(head, truth) else []
    return HeadResult(
        head=head.name,
        kind=head.kind,
        labels=label_names(head),
        notes=(*two_way, *notes),
        num_texts=len(truth),
        num_unlabelled=int((~labels.evaluated.known).sum()),
        num_training=len(labels.training.truth),
        contradictory=labels.contradictory,
        headline=KINDS[head.kind].metric_names[0],
        systems=_figures(measured.metrics, seed) if has_labels else (),
        confusion=_confusion(head, truth, ours),
        bins=_bins(head, truth, ours),
        slices=tuple(_slice(measured, part, seed) for part in slices if _within(measured, part).any()),
    )


def _fitting(head: HeadSpec, truth: Truth, answers: Answers) -> Answers:
    return without_neutral(head, answers) if len(truth) and is_two_way(head, truth) else answers


def _figures(metrics: Mapping[str, Sequence[Metric]], seed: int) -> tuple[SystemFigures, ...]:
    flat = resample([metric for own in metrics.values() for metric in own], seed)
    per_system = len(flat) // len(metrics)
    ours = flat[:per_system]
    figures = []
    for index, system in enumerate(metrics):
        own = flat[index * per_system : (index + 1) * per_system]
        gains = {left.metric.name: _gain(left, right) for left, right in zip(ours, own, strict=True)}
        figures.append(SystemFigures(system, {one.metric.name: one.figure for one in own}, gains if index else {}))
    return tuple(figures)


def _gain(ours: Resampled, theirs: Resampled) -> Figure:
    """How much better ours is; below zero it is worse."""
    return difference(theirs, ours) if ours.metric.lower_is_better else difference(ours, theirs)


def _within(measured: Measured, part: Slice) -> NDArray[np.bool_]:
    return part[2][measured.labels.evaluated.known]


def _slice(measured: Measured, part: Slice, seed: int) -> SliceFigures:
    by, value, _ = part
    rows = _within(measured, part)
    headlines = resample([own[0].take(rows) for own in measured.metrics.values()], seed)
    figures = {system: one.figure for system, one in zip(measured.metrics, headlines, strict=True)}
    return SliceFigures(by, value, int(rows.sum()), figures)


def _confusion(head: HeadSpec, truth: Truth, answers: Answers) -> tuple[tuple[int, ...], ...]:
    if head.kind not in ("single", "ordinal"):
        return ()
    num = len(head.labels)
    counts = np.bincount(truth * num + answers.labels, minlength=num * num).reshape(num, num)
    return tuple(tuple(int(count) for count in row) for row in counts)


def _bins(head: HeadSpec, truth: Truth, answers: Answers) -> tuple[Bin, ...]:
    if head.kind not in ("single", "ordinal") or answers.probs_nc is None:
        return ()
    sure, is_right = answers.probs_nc.max(axis=1), answers.labels == truth
    places = calibration_bin(sure)
    parts = [places == place for place in range(NUM_BINS)]
    return tuple(Bin(int(p.sum()), float(sure[p].mean()), float(is_right[p].mean())) for p in parts if p.any())
