"""The traditional method: TF-IDF of character and word n-grams with logistic regression, one model a head.

Trained in the same run on the set's own training rows, so that it is what a user without a trunk would have.
Characters carry Chinese, words carry English; neither is tuned to a set. Accuracy on dev, two-way (2026-11-22):
ChnSentiCorp 90.2, Amazon polarity 87.7, SST-2 78.8; characters alone 89.9, 83.4, 78.6; characters within words, and
words, 90.0, 87.7, 79.8 at three times the training time. A strength of 1, 4 or 10 moves these by 2 points at most.
Needs scikit-learn, the extra `evaluate`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.evaluate.answers import Answers
from jobs.evaluate.labels import OPEN
from jobs.evaluate.rows import EvaluateError

CHARACTERS = (1, 3)
WORDS = (1, 2)
MIN_TEXTS = 2  # an n-gram must be in this many texts
MAX_NGRAMS = 100_000  # of characters, and as many of words: the commonest
STRENGTH = 4.0  # the inverse of regularisation


class Baseline:
    """A trained model for one head: each label against the rest.

    Parameters
    ----------
    target_nc : which labels each text has, N x C: 1, 0, or `OPEN`, which that label's model doesn't learn from.
    exclusive : one label excludes the others, so their probabilities are made to sum to 1 and the likeliest is given;
        else all of a probability over a half.
    """

    def __init__(self, texts: Sequence[str], target_nc: NDArray[np.int8], *, exclusive: bool, seed: int) -> None:
        self._num_classes, self._exclusive = target_nc.shape[1], exclusive
        learnable = learnable_labels(target_nc)
        if not len(learnable):
            raise EvaluateError("the rows to train the baseline on must have at least two different labels")
        self._features = _features()
        found = self._features.fit_transform(texts)
        self._models = {int(code): _fit(found, target_nc[:, code], seed) for code in learnable}

    def answer(self, texts: Sequence[str]) -> tuple[Answers, float]:
        """Answers to clean texts and the seconds they took; a label that training never met has probability 0."""
        began = time.perf_counter()
        found = self._features.transform(texts)
        probs_nc = np.zeros((len(texts), self._num_classes))
        for code, model in self._models.items():
            probs_nc[:, code] = model.predict_proba(found)[:, 1]
        if not self._exclusive:
            return Answers(probs_nc > 0.5, probs_nc), time.perf_counter() - began
        probs_nc /= probs_nc.sum(axis=1, keepdims=True)
        return Answers(probs_nc.argmax(axis=1), probs_nc), time.perf_counter() - began


def learnable_labels(target_nc: NDArray[np.int8]) -> NDArray[np.int64]:
    """Labels that some text has and some text hasn't."""
    return np.flatnonzero((target_nc == 1).any(axis=0) & (target_nc == 0).any(axis=0))


def _fit(found: Any, target_n: NDArray[np.int8], seed: int) -> Any:
    decided = np.flatnonzero(target_n != OPEN)
    return _classifier(seed).fit(found[decided], target_n[decided] == 1)


def _features() -> Any:
    text = _sklearn("feature_extraction.text")
    common = {"min_df": MIN_TEXTS, "max_features": MAX_NGRAMS, "sublinear_tf": True, "dtype": np.float32}
    characters = text.TfidfVectorizer(analyzer="char", ngram_range=CHARACTERS, **common)
    words = text.TfidfVectorizer(analyzer="word", ngram_range=WORDS, **common)
    return _sklearn("pipeline").FeatureUnion([("characters", characters), ("words", words)])


def _classifier(seed: int) -> Any:
    """The dual is solved: with more n-grams than texts it is ten times faster."""
    linear = _sklearn("linear_model")
    return linear.LogisticRegression(C=STRENGTH, solver="liblinear", dual=True, max_iter=1000, random_state=seed)


def _sklearn(module: str) -> Any:
    import importlib  # noqa: PLC0415

    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise EvaluateError(
            "baseline needs scikit-learn: pip install -c constraints.txt '.[evaluate]', or set baseline to null"
        ) from error
