"""Intervals by bootstrap over texts (Efron 1979), and of differences between systems on the same texts.

The draws follow from the seed and the number of texts alone, so two systems measured on the same texts are resampled
together: subtracting their resampled values is the paired bootstrap. A calibration error is a sum of absolute values,
which resampling pushes up; its interval is therefore the basic one, reflected about the value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.evaluate.metrics import Metric, Sums

NUM_RESAMPLES = 2000
_DRAWS_AT_ONCE = 2_000_000  # bounds memory to some 50 MB


@dataclass(frozen=True)
class Figure:
    """A measured value with its 95 % interval, and how many texts it is over."""

    value: float
    low: float
    high: float
    num_texts: int


@dataclass(frozen=True)
class Resampled:
    """A metric's figure and the R values behind its interval."""

    metric: Metric
    figure: Figure
    values: Sums


def resample(metrics: Sequence[Metric], seed: int) -> list[Resampled]:
    """Measure metrics over the same texts, drawn once for all of them."""
    widths = np.cumsum([metric.per_text.shape[1] for metric in metrics])[:-1]
    sums = np.split(_resampled_sums(np.concatenate([metric.per_text for metric in metrics], axis=1), seed), widths, 1)
    return [_measured(metric, metric.of_sums(own)) for metric, own in zip(metrics, sums, strict=True)]


def difference(left: Resampled, right: Resampled) -> Figure:
    """`left` minus `right`, paired; both must be measured over the same texts with the same seed."""
    num = left.figure.num_texts
    assert num == right.figure.num_texts, "a paired difference needs the same texts"
    low, high = _percentiles(left.values - right.values)
    return Figure(left.figure.value - right.figure.value, low, high, num)


def _measured(metric: Metric, values: Sums) -> Resampled:
    value = metric.value()
    low, high = _percentiles(values)
    if not metric.is_quality:
        low, high = max(0.0, 2 * value - high), max(0.0, 2 * value - low)
    return Resampled(metric, Figure(value, low, high, len(metric.per_text)), values)


def _percentiles(values: Sums) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def _resampled_sums(per_text: Sums, seed: int) -> Sums:
    """(N, K) to (R, K): sums over texts drawn with replacement."""
    num = len(per_text)
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // max(num, 1))
    parts = []
    for start in range(0, NUM_RESAMPLES, at_once):
        rows = min(at_once, NUM_RESAMPLES - start)
        parts.append(_counts(rng, rows, num).astype(np.float64) @ per_text)
    return np.concatenate(parts)


def _counts(rng: np.random.Generator, rows: int, num: int) -> NDArray[np.int64]:
    """(rows, num): how often each resample holds each text."""
    if not num:
        return np.zeros((rows, 0), np.int64)
    drawn = rng.integers(0, num, (rows, num)) + np.arange(rows)[:, None] * num
    return np.bincount(drawn.ravel(), minlength=rows * num).reshape(rows, num)
