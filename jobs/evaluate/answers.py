"""What a bundle answers to texts, head by head, and how long that takes: tokenising and scoring, weights loaded."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.evaluate.rows import EvaluateError
from models.bundle import Bundle
from models.heads import SENTIMENT, HeadSpec, need_offsets
from models.precision import PRECISIONS
from models.scorer import Scorer

_WARM_UP = 64  # texts scored before the clock runs: first calls pay for packing weights and finding kernels

Rows = NDArray[np.integer] | NDArray[np.bool_]


@dataclass(frozen=True)
class Answers:
    """A head's answers to N texts.

    labels : in the form of that kind's truth (see `jobs.evaluate.labels`): codes, a mask, or sets of spans.
    probs_nc : probabilities over the head's labels, N x C; None for spans.
    """

    labels: NDArray[Any]
    probs_nc: NDArray[np.float64] | None = None

    def take(self, rows: Rows) -> Answers:
        """The answers to some of the texts."""
        return Answers(self.labels[rows], None if self.probs_nc is None else self.probs_nc[rows])


@dataclass(frozen=True)
class Pass:
    """One pass over texts: answers by head, and seconds."""

    answers: Mapping[str, Answers]
    seconds: float


class BundleSystem:
    """A bundle in one precision, ready to answer."""

    def __init__(self, bundle: Bundle, precision: str, *, token_budget: int, device: str, threads: int) -> None:
        self.bundle, self.precision = bundle, precision
        if precision not in PRECISIONS:
            raise EvaluateError(f"precisions: {precision!r} isn't one; known are {', '.join(PRECISIONS)}")
        self._scorer = Scorer(
            bundle,
            token_budget=token_budget,
            precision=precision,
            device=device,
            threads=threads,
            is_gated=False,  # it is here that the gate's record is measured
        )
        self._is_warm = False

    def __str__(self) -> str:
        return f"{self.bundle} {self.precision}"

    def answer(self, texts: Sequence[str]) -> Pass:
        """Answers to clean texts, in their order."""
        if not self._is_warm:
            self._scores(texts[:_WARM_UP])
            self._is_warm = True
        began = time.perf_counter()
        scores = self._scores(texts)
        seconds = time.perf_counter() - began
        heads = (head for head in self.bundle.spec.heads if head.kind != "embedding")
        return Pass({head.name: answers_of(head, scores) for head in heads}, seconds)

    def _scores(self, texts: Sequence[str]) -> pa.Table:
        with_offsets = need_offsets(self.bundle.spec.heads)
        return self._scorer.score(self.bundle.tokeniser.encode(texts, with_offsets=with_offsets))


def answers_of(head: HeadSpec, scores: pa.Table) -> Answers:
    """A head's answers, out of the columns that the scorer gives."""
    if head.kind == "token":
        spans = scores[head.name].to_pylist()
        return Answers(_objects([frozenset((s["start"], s["end"], s["label"]) for s in row) for row in spans]))
    prefix = "prob_" if head.name == SENTIMENT else f"prob_{head.name}_"
    probs_nc = np.stack([scores[f"{prefix}{label}"].to_numpy() for label in head.labels], axis=1).astype(np.float64)
    if head.kind == "multi":
        return Answers(_chosen(scores[head.name].combine_chunks(), head.labels), probs_nc)
    return Answers(probs_nc.argmax(axis=1), probs_nc)


def _chosen(lists: pa.ListArray, labels: Sequence[str]) -> NDArray[np.bool_]:
    chosen_nc = np.zeros((len(lists), len(labels)), np.bool_)
    texts = np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy())
    chosen_nc[texts, pc.index_in(lists.flatten(), pa.array(labels)).to_numpy()] = True
    return chosen_nc


def _objects(values: Sequence[object]) -> NDArray[np.object_]:
    """One object a text; numpy would make a matrix of sets of equal size."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
