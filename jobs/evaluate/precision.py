"""The precision gate's measurement: answers in a precision held against those in fp32 on the same texts.

Agreement counts every evaluated text, labelled or not. A drop is looked for in every metric of every labelled head, on
each set and on all sets that label the head together. The rule is taken by the letter, so it wants some thousand texts:
of three hundred, one answer is already more than its 0.3 points (seen with bf16, 99.95 % of labels the same). Given up:
a precision can fail on few texts by chance; it can't pass by chance. Calibration is no metric of this rule.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from jobs.evaluate.answers import Pass
from jobs.evaluate.kinds import agreement
from jobs.evaluate.metrics import Mask, Metric
from jobs.evaluate.rows import EvaluateError
from models.gates import Drop, Record, judge

_Pair = tuple[Metric, Metric]  # fp32's, the precision's


class Tally:
    """What has been seen of one precision so far, set by set."""

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self._same: dict[str, list[Mask]] = defaultdict(list)
        self._pairs: dict[tuple[str, str], list[tuple[str, _Pair]]] = defaultdict(list)
        self._num_texts = 0

    def add_answers(self, reference: Pass, other: Pass) -> None:
        """Take the answers to a set's texts into account."""
        for head, answers in reference.answers.items():
            self._same[head].append(agreement(answers, other.answers[head]))
        self._num_texts += len(next(iter(self._same.values()))[-1]) if self._same else 0

    def add_metrics(self, set_name: str, head: str, reference: Sequence[Metric], other: Sequence[Metric]) -> None:
        """Take a labelled head of a set into account."""
        for pair in zip(reference, other, strict=True):
            if pair[0].is_quality and len(pair[0].per_text):
                self._pairs[head, pair[0].name].append((set_name, pair))

    def record(self, *, measured_on: str, machine: str) -> Record:
        """The record, by the rule of `models.gates`."""
        if not self._same:
            raise EvaluateError("the bundle has no head with labels, so a precision can't be held against fp32")
        shares = {head: float(np.concatenate(same).mean()) for head, same in self._same.items()}
        drops: dict[str, Drop] = {}
        for head, drop in self._drops():
            if head not in drops or drop.points > drops[head].points:
                drops[head] = drop
        return judge(shares, drops, self._num_texts, measured_on=measured_on, machine=machine)

    def _drops(self) -> Iterator[tuple[str, Drop]]:
        """By head: of each metric over all sets, and on each set."""
        for (head, metric), parts in self._pairs.items():
            reference, other = map(_joined, zip(*(pair for _, pair in parts), strict=True))
            own = [(f"{name}.", pair) for name, pair in parts] if len(parts) > 1 else []
            for name, pair in [("", (reference, other)), *own]:
                if not math.isnan(pair[0].value()):  # else no text counts there
                    yield head, Drop(points=_points(*pair), metric=f"{name}{head}.{metric}")


def _joined(metrics: Sequence[Metric]) -> Metric:
    first = metrics[0]
    per_text = np.concatenate([metric.per_text for metric in metrics])
    return Metric(first.name, per_text, first.of_sums, first.lower_is_better, first.span, first.is_quality)


def _points(reference: Metric, other: Metric) -> float:
    """How much worse, in hundredths of the metric's span; below zero is better."""
    sign = -1 if reference.lower_is_better else 1
    return 100 * sign * (reference.value() - other.value()) / reference.span
