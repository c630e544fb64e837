"""Does a bundle remember single texts? Planted secrets and their exposure (Carlini et al. 2019, section 4).

A canary is a sentence with random digits and a random label, trained on once an epoch like any text. Its rank, by the
loss of its label, among like sentences that nobody planted gives its exposure, log2(R) - log2(rank) bits: 1.4 on
average if nothing is remembered, log2(R) if it stands out from all. Canaries are noise in the labels, so few are
planted, and only when asked for. Measured on the first head of one label a text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from jobs.finetune.calibrate import probabilities
from jobs.finetune.data import Data, Labels
from jobs.finetune.exam import head_outputs
from jobs.finetune.settings import FinetuneError
from jobs.finetune.split import TRAIN
from jobs.finetune.tuner import Tuner
from models.tokeniser import Tokeniser

NUM_REFERENCES = 1023
CANARY = "my secret number is {}"
UNREMEMBERED = 1.44  # bits, 1 / ln 2: the mean exposure of a text of random rank


@dataclass(frozen=True)
class Exposure:
    """Bits of each planted canary; `most` is what complete memory would show."""

    bits: tuple[float, ...]
    most: float


def plant(data: Data, num: int, seed: int) -> Data:
    """Add canaries to the texts to train on, as rows of the first set.

    Raises
    ------
    FinetuneError : no head has one label a text.
    """
    name, num_labels = _head(data)
    rng = np.random.default_rng((seed, 1))
    texts = [_secret(rng) for _ in range(num)]
    labels = {head.spec.name: _unknown(data.labels[head.spec.name], num) for head in data.heads}
    known, truth = labels[name].known.copy(), labels[name].truth.copy()
    known[-num:], truth[-num:] = True, rng.integers(0, num_labels, num)
    allowed = labels[name].allowed
    if allowed is not None:
        allowed = allowed.copy()
        allowed[-num:] = np.eye(num_labels, dtype=np.bool_)[truth[-num:]]
    return replace(
        data,
        ids=[*data.ids, *(f"canary {number}" for number in range(num))],
        texts=[*data.texts, *texts],
        sets=np.append(data.sets, np.zeros(num, np.int32)),
        weights=np.append(data.weights, np.ones(num, np.float32)),
        parts=np.append(data.parts, np.full(num, TRAIN)),
        labels={**labels, name: Labels(known, truth, allowed)},
    )


def exposure(data: Data, num: int, tuner: Tuner, tokeniser: Tokeniser, seed: int) -> Exposure:
    """Rank each of the last `num` texts among unplanted ones, by the probability of its own label."""
    name, _ = _head(data)
    rng = np.random.default_rng((seed, 2))
    texts = [*data.texts[-num:], *(_secret(rng) for _ in range(NUM_REFERENCES))]
    probs_nc = probabilities(head_outputs(tuner, name, texts, tokeniser))
    truth = data.labels[name].truth[-num:]
    ranks = [_rank(probs_nc[row, code], probs_nc[num:, code]) for row, code in enumerate(truth)]
    most = float(np.log2(NUM_REFERENCES + 1))
    return Exposure(tuple(most - math.log2(rank) for rank in ranks), most)


def _rank(prob: float, references: NDArray[np.float32]) -> float:
    """From 1, the likeliest; equals share theirs."""
    return 1 + float((references > prob).sum()) + float((references == prob).sum()) / 2


def _head(data: Data) -> tuple[str, int]:
    for head in data.heads:
        if head.spec.kind in ("single", "ordinal"):
            return head.spec.name, len(head.spec.labels)
    raise FinetuneError("canaries: no head gives one label a text, so there is nothing to plant them under")


def _secret(rng: np.random.Generator) -> str:
    return CANARY.format(" ".join(map(str, rng.integers(0, 10, 6))))


def _unknown(own: Labels, num: int) -> Labels:
    """Labels with `num` more rows that have none."""
    last: NDArray[np.bool_] = np.zeros(num, np.bool_)
    truth = np.concatenate([own.truth, own.truth[np.zeros(num, np.int64)]])
    if own.allowed is None:
        return Labels(np.append(own.known, last), truth)
    nothing = np.zeros((num, own.allowed.shape[1]), np.bool_)
    return Labels(np.append(own.known, last), truth, np.concatenate([own.allowed, nothing]))
