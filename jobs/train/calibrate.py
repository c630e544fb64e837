"""Calibration and figures of a trained model on dev texts: one temperature a head, of least loss (Guo et al. 2017).

Every other dev text fits the temperature; the rest say what it is worth, so that the card's calibration error isn't
measured on what it was fitted to. Nothing else is chosen on these texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from jobs.train.card import HeadReport, SetReport
from jobs.train.corpus import Corpus
from jobs.train.learner import Learner
from jobs.train.measure import (
    Logits,
    accuracy,
    calibration_error,
    grade_error,
    probabilities,
    two_way_accuracy,
)
from jobs.train.sets import HEADS, NEUTRAL
from models.batching import batches
from models.heads import HeadSpec
from models.packing import PackedBatch, pack

TEMPERATURES = np.geomspace(0.25, 8.0, 401)  # steps of 0.9 %: finer than any dev part can tell apart
TOKEN_BUDGET = 8192


def calibrate(learner: Learner, corpus: Corpus) -> tuple[tuple[HeadSpec, ...], tuple[HeadReport, ...]]:
    """Heads with their temperatures, and what these are worth."""
    heads, reports = [], []
    for index, (head, logits) in enumerate(zip(HEADS, _dev_logits(learner, corpus), strict=True)):
        bits = corpus.labels[:, index]
        bits = np.where(bits & (bits - 1), 0, bits)  # texts of several allowed answers can't tell how sure to be
        temperature = best_temperature(logits[::2], bits[::2])
        before, after = (calibration_error(logits[1::2], bits[1::2], t) for t in (1.0, temperature))
        heads.append(head.model_copy(update={"temperature": temperature}))
        reports.append(HeadReport(head.name, head.labels, temperature, before, after))
    return tuple(heads), tuple(reports)


def measure_set(learner: Learner, corpus: Corpus, seed: int) -> SetReport:
    """Figures on the dev part of one set, which is all of `corpus`."""
    sentiment_logits, stars_logits = _dev_logits(learner, corpus)
    sentiment, stars = corpus.labels[:, 0], corpus.labels[:, 1]
    is_exact = np.isin(stars, 1 << np.arange(stars_logits.shape[1]))
    return SetReport(
        name=corpus.names[0],
        two_way=two_way_accuracy(sentiment_logits, sentiment, seed),
        three_way=accuracy(sentiment_logits, sentiment, seed) if (sentiment == NEUTRAL).any() else None,
        stars_error=grade_error(stars_logits, stars, seed) if is_exact.any() else None,
    )


def _dev_logits(learner: Learner, corpus: Corpus) -> list[Logits]:
    """Logits of each head, N x C, in the corpus' order."""
    logits = [np.empty((len(corpus), len(head.labels)), dtype=np.float32) for head in HEADS]
    for rows, outputs in answers(lambda batch: learner.head_logits(learner.trunk(batch), batch), corpus):
        for whole, part in zip(logits, outputs, strict=True):
            whole[rows] = part.numpy()
    return logits


def answers(
    forward: Callable[[PackedBatch], list[torch.Tensor]], corpus: Corpus
) -> Iterator[tuple[NDArray[np.int64], list[torch.Tensor]]]:
    """Go through a whole corpus, batch by batch: which texts, and what `forward` gives for them."""
    for rows in batches(corpus.lengths, TOKEN_BUDGET):
        with torch.inference_mode():
            outputs = forward(pack(np.concatenate(corpus.gather(rows)), corpus.lengths[rows]))
        yield rows, outputs


def best_temperature(logits_bc: Logits, bits: NDArray[np.uint8]) -> float:
    """The temperature under which the allowed answers are likeliest; 1 if nothing is labelled."""
    known = bits > 0
    if not known.any():
        return 1.0
    allowed = (bits[known, None] >> np.arange(logits_bc.shape[1])) & 1 == 1
    return likeliest_temperature(lambda temperature: _loss(logits_bc[known], allowed, temperature))


def likeliest_temperature(loss_at: Callable[[float], float]) -> float:
    """The temperature of least loss."""
    losses = [loss_at(float(temperature)) for temperature in TEMPERATURES]
    return round(float(TEMPERATURES[int(np.argmin(losses))]), 4)


def _loss(logits_bc: Logits, allowed: NDArray[np.bool_], temperature: float) -> float:
    probs = np.where(allowed, probabilities(logits_bc.astype(np.float64), temperature), 0.0).sum(axis=1)
    return float(-np.log(np.maximum(probs, 1e-12)).mean())
