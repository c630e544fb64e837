"""Metrics as sums over texts, so that every one of them can be resampled the same way.

A metric is what each text adds to K sums, and a function of those sums: accuracy is a sum of right answers over a sum
of texts, macro-F1 is hits, truths and answers of each class. A resample of texts is then one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15  # of a calibration error

Sums = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Metric:
    """A named metric over N texts.

    per_text : (N, K), what each text adds.
    of_sums : (..., K) sums to (...) values; not a number where nothing counts.
    span : how far apart the worst and the best value can lie, so that errors on a scale can be told in points.
    is_quality : false for calibration, which says how sure the answers sound, not how good they are.
    """

    name: str
    per_text: Sums
    of_sums: Callable[[Sums], Sums]
    lower_is_better: bool = False
    span: float = 1.0
    is_quality: bool = True

    def value(self) -> float:
        """The metric over all texts."""
        return float(self.of_sums(self.per_text.sum(axis=0)))

    def take(self, rows: NDArray[np.integer] | Mask) -> Metric:
        """The same metric over some of the texts."""
        return Metric(self.name, self.per_text[rows], self.of_sums, self.lower_is_better, self.span, self.is_quality)


def accuracy(is_right: Mask, counts: Mask | None = None, name: str = "accuracy") -> Metric:
    """Share of right answers among the texts that count."""
    counted = np.ones(len(is_right), np.bool_) if counts is None else counts
    return Metric(name, np.stack([is_right & counted, counted], axis=1).astype(np.float64), _ratio)


def macro_f1(truth_nc: Mask, answer_nc: Mask) -> Metric:
    """Mean of the classes' F1, over the classes that occur in the truth."""
    per_text = np.concatenate([truth_nc & answer_nc, truth_nc, answer_nc], axis=1).astype(np.float64)
    return Metric("macro_f1", per_text, _macro_f1)


def micro_f1(hits: Sums, truths: Sums, answers: Sums, name: str = "micro_f1") -> Metric:
    """F1 over all decisions at once; each argument counts per text."""
    return Metric(name, np.stack([hits, truths, answers], axis=1).astype(np.float64), _f1)


def span_f1(truths: NDArray[np.object_], answers: NDArray[np.object_], *, with_label: bool) -> Metric:
    """Micro-F1 over exact spans. Each text has a set of (start, end, label); without label only the place counts."""
    told = [_spans(one, with_label) for one in truths]
    found = [_spans(one, with_label) for one in answers]
    hits = [one & other for one, other in zip(told, found, strict=True)]
    name = "span_f1" if with_label else "place_f1"
    return micro_f1(_sizes(hits), _sizes(told), _sizes(found), name=name)


def mean_error(errors: Sums, span: float) -> Metric:
    """Mean absolute error of grades that lie `span` apart at most."""
    per_text = np.stack([errors, np.ones(len(errors))], axis=1)
    return Metric("mean_error", per_text, _ratio, lower_is_better=True, span=span)


def calibration_error(sure: Sums, is_right: Mask) -> Metric:
    """Expected calibration error of the likeliest answer over `NUM_BINS` equal bins (Guo et al. 2017, section 2)."""
    per_text = np.zeros((len(sure), NUM_BINS + 1))
    per_text[np.arange(len(sure)), calibration_bin(sure)] = sure - is_right
    per_text[:, -1] = 1
    return Metric("calibration_error", per_text, _calibration, lower_is_better=True, is_quality=False)


def calibration_bin(sure: Sums) -> NDArray[np.int64]:
    """The bin of each probability; 1 is in the last."""
    return np.minimum((sure * NUM_BINS).astype(np.int64), NUM_BINS - 1)


def one_hot(codes: NDArray[np.integer], num_classes: int) -> Mask:
    """N codes as N x C."""
    hot: Mask = codes[:, None] == np.arange(num_classes)
    return hot


def _spans(spans: frozenset[tuple[int, int, str]], with_label: bool) -> frozenset[tuple[object, ...]]:
    return frozenset(spans) if with_label else frozenset((start, end) for start, end, _ in spans)


def _sizes(sets: Sequence[frozenset[tuple[object, ...]]]) -> Sums:
    return np.array([len(one) for one in sets], np.float64)


def _ratio(sums: Sums) -> Sums:
    with np.errstate(invalid="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def _f1(sums: Sums) -> Sums:
    with np.errstate(invalid="ignore"):
        return np.asarray(2 * sums[..., 0] / (sums[..., 1] + sums[..., 2]))


def _macro_f1(sums: Sums) -> Sums:
    hits, truths, answers = np.split(sums, 3, axis=-1)
    occurs = truths > 0
    by_class = 2 * hits / np.maximum(truths + answers, 1)
    with np.errstate(invalid="ignore"):
        return np.asarray((by_class * occurs).sum(axis=-1) / occurs.sum(axis=-1))


def _calibration(sums: Sums) -> Sums:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(sums[..., :-1]).sum(axis=-1) / sums[..., -1])
