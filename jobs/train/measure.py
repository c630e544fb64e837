"""Figures of a model on the parts that it wasn't trained on, each with an interval by bootstrap over texts.

Two-way accuracy leaves `neutral` out on both sides: the sets of reviews have no such label.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 2000
NUM_BINS = 15

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Figure:
    """A measured value with its 95 % interval, and how many texts it is over."""

    value: float
    low: float
    high: float
    num_texts: int


def mean_with_interval(per_text: NDArray[np.floating], seed: int) -> Figure:
    """Mean over texts with the bootstrap's percentile interval."""
    rng = np.random.default_rng(seed)
    num = len(per_text)
    means = [float(per_text[rng.integers(0, num, num)].mean()) for _ in range(NUM_RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Figure(float(per_text.mean()), float(low), float(high), num)


def probabilities(logits_bc: Logits, temperature: float = 1.0) -> Logits:
    """Softmax of logits over a temperature."""
    scaled = logits_bc / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    normed: Logits = powers / powers.sum(axis=1, keepdims=True)
    return normed


def two_way_accuracy(logits_bc: Logits, bits: NDArray[np.uint8], seed: int) -> Figure:
    """Share of polar texts (label bits 1 or 4) whose polar answer is right."""
    polar = np.isin(bits, (1, 4))
    is_right = (logits_bc[polar, 2] > logits_bc[polar, 0]) == (bits[polar] == 4)
    return mean_with_interval(is_right.astype(np.float64), seed)


def accuracy(logits_bc: Logits, bits: NDArray[np.uint8], seed: int) -> Figure:
    """Share of labelled texts whose likeliest answer is an allowed one."""
    known = bits > 0
    return mean_with_interval(_is_right(logits_bc[known], bits[known]).astype(np.float64), seed)


def grade_error(logits_bc: Logits, bits: NDArray[np.uint8], seed: int) -> Figure:
    """Mean absolute error of the expected grade (1 to C) over texts whose grade is known exactly."""
    exact = np.isin(bits, 1 << np.arange(logits_bc.shape[1]))
    grades = np.arange(1, logits_bc.shape[1] + 1)
    expected = probabilities(logits_bc[exact]) @ grades
    return mean_with_interval(np.abs(expected - (np.log2(bits[exact]) + 1)), seed)


def calibration_error(logits_bc: Logits, bits: NDArray[np.uint8], temperature: float) -> float:
    """Expected calibration error of the likeliest answer, over `NUM_BINS` equal bins (Guo et al. 2017, section 2).

    Not a number if no text is labelled.
    """
    known = bits > 0
    if not known.any():
        return math.nan
    sure = probabilities(logits_bc[known], temperature).max(axis=1)
    is_right = _is_right(logits_bc[known], bits[known])
    place = np.minimum((sure * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = np.bincount(place, sure - is_right, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(sure))


def _is_right(logits_bc: Logits, bits: NDArray[np.uint8]) -> NDArray[np.bool_]:
    right: NDArray[np.bool_] = (bits >> logits_bc.argmax(axis=1)) & 1 == 1
    return right
