"""Few examples: the trunk stays as it is, and a regularised logistic regression learns on its mean-pooled vectors.

What 8 examples a class can't do is move millions of weights. The strength of regularisation is chosen by five-fold
cross-validation, whose held-out answers also fit the temperature. Convex: no seed, no steps, seconds. Vectors are
standardised, which is taken into the head's weights afterwards, so the bundle has a plain linear head on a mean.
Whether the vectors are any good for a task is asked first: naive Bayes on the bare words, which knows no language, is
cross-validated beside them. Where it is ahead, the trunk must move (NOTES.md).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from jobs.finetune.calibrate import probabilities
from models.tokeniser import Tokens

log = logging.getLogger("verbatim.finetune")

FOLDS = 5
SMOOTHING = 0.1  # of naive Bayes: a word's count in a label that never had it
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # of the squared weights, beside the mean loss
MAX_STEPS = 200

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Examples:
    """N texts: vectors (N, D), codes (N), weights (N), and how many labels there are."""

    vectors: Vectors
    codes: NDArray[np.int64]
    weights: Vectors
    num_labels: int

    def take(self, rows: NDArray[np.bool_]) -> Examples:
        """Some of the texts."""
        return Examples(self.vectors[rows], self.codes[rows], self.weights[rows], self.num_labels)


@dataclass(frozen=True)
class LinearHead:
    """Weight C x D and bias C on the plain vectors."""

    weight: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True)
class FewShot:
    """The head, its penalty, and of cross-validation each training text's logits and the share answered rightly."""

    head: LinearHead
    penalty: float
    logits_nc: NDArray[np.float32]
    accuracy: float


def learn_few(examples: Examples, seed: int) -> FewShot:
    """Choose the penalty by cross-validation, then learn on all texts."""
    folds = _folds(examples.codes, seed)
    tried = {penalty: _cross_logits(examples, folds, penalty) for penalty in PENALTIES}
    penalty = min(tried, key=lambda one: _loss(tried[one], examples))
    log.info("penalty %g, by cross-validation over %d texts", penalty, len(examples.codes))
    is_right = tried[penalty].argmax(axis=1) == examples.codes
    return FewShot(fit(examples, penalty), penalty, tried[penalty], _share(is_right, examples))


def word_accuracy(tokens: Tokens, examples: Examples, seed: int) -> float:
    """What naive Bayes on bare words answers rightly, over the folds of `learn_few`; `tokens` are the examples'."""
    folds = _folds(examples.codes, seed)
    words = np.unique(tokens.ids, return_inverse=True)[1]
    owner = np.repeat(np.arange(len(tokens)), tokens.lengths)
    is_right = np.zeros(len(tokens), np.bool_)
    for fold in range(FOLDS):
        told, asked = folds[owner] != fold, np.flatnonzero(folds == fold)
        counts_cv = np.full((examples.num_labels, words.max() + 1), SMOOTHING, np.float32)
        np.add.at(counts_cv, (examples.codes[owner[told]], words[told]), 1)
        likelihood_tc = np.log(counts_cv / counts_cv.sum(axis=1, keepdims=True)).T[words[~told]]
        starts = np.cumsum(tokens.lengths[asked]) - tokens.lengths[asked]
        prior_c = np.log(np.bincount(examples.codes[folds != fold], minlength=examples.num_labels) + SMOOTHING)
        answers = (np.add.reduceat(likelihood_tc, starts, axis=0) + prior_c).argmax(axis=1)
        is_right[asked] = answers == examples.codes[asked]
    return _share(is_right, examples)


def _share(is_right: NDArray[np.bool_], examples: Examples) -> float:
    return float(examples.weights[is_right].sum() / examples.weights.sum())


def fit(examples: Examples, penalty: float) -> LinearHead:
    """Multinomial logistic regression by L-BFGS."""
    vectors, num_labels = examples.vectors, examples.num_labels
    mean, scale = vectors.mean(axis=0), vectors.std(axis=0) + 1e-6
    inputs, targets = torch.from_numpy((vectors - mean) / scale), torch.from_numpy(examples.codes)
    importance = torch.from_numpy(examples.weights / examples.weights.sum())
    weight = torch.zeros(num_labels, inputs.shape[1], requires_grad=True)
    bias = torch.zeros(num_labels, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=MAX_STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        losses = functional.cross_entropy(functional.linear(inputs, weight, bias), targets, reduction="none")
        loss = (losses * importance).sum() + penalty * weight.square().sum() / inputs.shape[1]
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    plain = weight.detach() / torch.from_numpy(scale)
    return LinearHead(plain, bias.detach() - plain @ torch.from_numpy(mean))


def _folds(codes: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A fold a text; each label's texts are dealt out evenly."""
    shuffled = np.random.default_rng(seed).permutation(len(codes))
    by_label = shuffled[np.argsort(codes[shuffled], kind="stable")]
    folds = np.empty(len(codes), np.int64)
    folds[by_label] = np.arange(len(codes)) % FOLDS
    return folds


def _cross_logits(examples: Examples, folds: NDArray[np.int64], penalty: float) -> NDArray[np.float32]:
    logits_nc = np.zeros((len(folds), examples.num_labels), np.float32)
    for fold in range(FOLDS):
        head, asked = fit(examples.take(folds != fold), penalty), torch.from_numpy(examples.vectors[folds == fold])
        logits_nc[folds == fold] = functional.linear(asked, head.weight, head.bias).numpy()
    return logits_nc


def _loss(logits_nc: NDArray[np.float32], examples: Examples) -> float:
    likelihood = probabilities(logits_nc)[np.arange(len(logits_nc)), examples.codes]
    return float(-(examples.weights * np.log(np.maximum(likelihood, 1e-12))).sum() / examples.weights.sum())
