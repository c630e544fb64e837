"""How sure each head may sound: a temperature, for several labels a threshold, and where to abstain.

All fitted on texts kept for tuning, which neither trained a weight nor are in the figures. The temperature is that of
least loss (Guo et al. 2017), each set counting the same: a user's texts are like those of one set, not like the
mixture, in which a large easy set would hide that answers on another sound too sure. A label that none of a set's
texts has isn't in question there: reviews that leave neutral out, or complaints alone, can't tell how sure an answer
among all labels may sound. The threshold is that of best macro-F1. Abstaining is a suggestion in the card: the least
probability at which the answers given are wrong half as often as all answers are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.evaluate.labels import OPEN
from jobs.evaluate.metrics import calibration_error
from jobs.finetune.exam import Exam, Outputs
from jobs.finetune.spans import IGNORED, token_tags
from models.heads import HeadSpec

FEWEST = 30  # labelled texts: with fewer, a temperature would be noise
TEMPERATURES = np.geomspace(0.25, 8.0, 401)  # steps of 0.9 %: finer than any tuning part can tell apart
ABSTAIN_AT = np.arange(0.2, 1.0, 0.01).round(2)


@dataclass(frozen=True)
class Abstention:
    """Answer only from this probability on: the share of texts answered, and how many of these rightly."""

    probability: float
    answered: float
    accuracy: float
    accuracy_of_all: float


@dataclass(frozen=True)
class Calibrated:
    """A head ready to ship, and what its temperature is worth on the texts that fitted it."""

    spec: HeadSpec
    num_texts: int
    error_before: float
    error_after: float
    abstention: Abstention | None


def calibrate(specs: Sequence[HeadSpec], outputs: Sequence[Outputs], exam: Exam) -> list[Calibrated]:
    """Each head with its temperature and threshold."""
    return [_calibrate(spec, own, exam) for spec, own in zip(specs, outputs, strict=True)]


def _calibrate(spec: HeadSpec, outputs: Outputs, exam: Exam) -> Calibrated:
    own = exam.labels[spec.name]
    plain = spec.model_copy(update={"temperature": 1.0})
    num_texts, weights = int(own.known.sum()), set_weights(exam.corpus.sets, own.known)
    if num_texts < FEWEST:
        return Calibrated(plain, num_texts, np.nan, np.nan, None)
    if spec.kind == "multi":
        return _calibrate_multi(plain, outputs, exam, weights)
    if spec.kind == "token":
        tags = token_tags(list(own.truth), spec.labels, exam.tokens)
        known = (tags != IGNORED) & np.repeat(own.known, exam.tokens.lengths)
        logits_nc, codes, weights = outputs[known], tags[known], np.repeat(weights, exam.tokens.lengths)[known]
        asked_nc = logits_nc
    else:
        logits_nc, codes, weights = outputs[own.known], own.truth[own.known], weights[own.known]
        asked_nc = in_question(logits_nc, codes, exam.corpus.sets[own.known])
    temperature = likeliest_temperature(lambda t: _loss(asked_nc, codes, weights, t))
    return _with_temperature(plain, temperature, logits_nc, codes, num_texts)


def set_weights(sets: NDArray[np.integer], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What each of N texts counts: those of a set together 1, or less if it has fewer than `FEWEST` that are known."""
    known_of_set = np.bincount(sets[known], minlength=int(sets.max(initial=0)) + 1)
    return np.where(known, 1 / np.maximum(known_of_set, FEWEST)[sets], 0.0)


def in_question(logits_nc: Outputs, codes: NDArray[np.int64], sets: NDArray[np.integer]) -> Outputs:
    """Logits without those of labels that no text of the same set has; all, if each set is of one label alone."""
    parts = [(sets == place, np.unique(codes[sets == place])) for place in np.unique(sets)]
    if all(len(used) == 1 for _, used in parts):
        return logits_nc
    asked_nc = logits_nc.copy()
    for own, used in parts:
        unused = np.setdiff1d(np.arange(logits_nc.shape[1]), used)
        asked_nc[np.ix_(own, unused)] = -np.inf
    return asked_nc


def _with_temperature(
    spec: HeadSpec, temperature: float, logits_nc: Outputs, codes: NDArray[np.int64], num_texts: int
) -> Calibrated:
    errors = [_error(logits_nc, codes, t) for t in (1.0, temperature)]
    calibrated = spec.model_copy(update={"temperature": temperature})
    abstention = None if spec.kind == "token" else suggest_abstention(probabilities(logits_nc, temperature), codes)
    return Calibrated(calibrated, num_texts, errors[0], errors[1], abstention)


def _calibrate_multi(spec: HeadSpec, outputs: Outputs, exam: Exam, weights: NDArray[np.float64]) -> Calibrated:
    own = exam.labels[spec.name]
    logits_nc, truth = outputs[own.known].astype(np.float64), own.truth[own.known]
    signed = np.where(truth > 0, logits_nc, -logits_nc)[truth != OPEN]
    weights = np.broadcast_to(weights[own.known, None], truth.shape)[truth != OPEN]
    temperature = likeliest_temperature(lambda t: float(np.average(np.logaddexp(0, -signed / t), weights=weights)))
    warm = spec.model_copy(update={"temperature": temperature})
    threshold = exam.best_threshold(warm, outputs)
    errors = [_multi_error(logits_nc / t, truth) for t in (1.0, temperature)]
    calibrated = warm.model_copy(update={"threshold": threshold})
    return Calibrated(calibrated, len(truth), errors[0], errors[1], None)


def likeliest_temperature(loss_at: Callable[[float], float]) -> float:
    """The temperature of least loss."""
    losses = [loss_at(float(temperature)) for temperature in TEMPERATURES]
    return round(float(TEMPERATURES[int(np.argmin(losses))]), 4)


def probabilities(logits_nc: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.floating]:
    """Softmax of logits over a temperature."""
    scaled = logits_nc / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    normed: NDArray[np.floating] = powers / powers.sum(axis=1, keepdims=True)
    return normed


def suggest_abstention(probs_nc: NDArray[np.floating], codes: NDArray[np.int64]) -> Abstention | None:
    """None if no probability halves the errors and leaves a tenth of the texts answered."""
    sure, is_right = probs_nc.max(axis=1), probs_nc.argmax(axis=1) == codes
    accuracy = float(is_right.mean())
    for probability in ABSTAIN_AT:
        answered = sure >= probability
        if answered.mean() < 0.1:
            return None
        if 1 - is_right[answered].mean() <= (1 - accuracy) / 2:
            return Abstention(float(probability), float(answered.mean()), float(is_right[answered].mean()), accuracy)
    return None


def _loss(logits_nc: Outputs, codes: NDArray[np.int64], weights: NDArray[np.float64], temperature: float) -> float:
    probs_nc = probabilities(logits_nc.astype(np.float64), temperature)
    likelihood = np.maximum(probs_nc[np.arange(len(codes)), codes], 1e-12)
    return float(np.average(-np.log(likelihood), weights=weights))


def _error(logits_nc: Outputs, codes: NDArray[np.int64], temperature: float) -> float:
    probs_nc = probabilities(logits_nc.astype(np.float64), temperature)
    return calibration_error(probs_nc.max(axis=1), probs_nc.argmax(axis=1) == codes).value()


def _multi_error(logits_nc: NDArray[np.float64], truth: NDArray[np.int8]) -> float:
    """Over all decisions, label by label, but those left open."""
    probs = (1 + np.tanh(logits_nc[truth != OPEN] / 2)) / 2
    return calibration_error(np.maximum(probs, 1 - probs), (probs > 0.5) == (truth[truth != OPEN] > 0)).value()
