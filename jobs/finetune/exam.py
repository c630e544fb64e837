"""A part of the texts that a model is asked about while it learns, and what its answers are worth.

Worth is the headline metric of each head's kind (`jobs.evaluate.kinds`), the mean over heads, so that what stops the
training is what the evaluation will say. An error of grades counts as its share of the scale, taken from 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from jobs.evaluate.answers import answers_of
from jobs.evaluate.kinds import KINDS
from jobs.finetune.data import Labels
from jobs.finetune.tuner import Tuner
from jobs.train.corpus import Corpus, corpus_of
from models.batching import batches
from models.heads import HeadSpec
from models.packing import PackedBatch, pack
from models.tokeniser import Tokeniser, Tokens

TOKEN_BUDGET = 8192
THRESHOLDS = np.arange(0.1, 0.91, 0.02).round(2)

Outputs = NDArray[np.float32]


@dataclass(frozen=True)
class Exam:
    """N texts with their labels, a `Labels` a head."""

    corpus: Corpus
    tokens: Tokens
    labels: Mapping[str, Labels]

    def __len__(self) -> int:
        return len(self.corpus)

    def outputs(self, tuner: Tuner) -> list[Outputs]:
        """Every head's outputs, N x C or T x C, in the texts' order."""
        starts = np.cumsum(self.corpus.lengths, dtype=np.int64) - self.corpus.lengths
        whole = [
            np.empty((self.tokens.num_tokens if spec.reads_tokens else len(self), len(spec.labels)), np.float32)
            for spec in tuner.specs
        ]
        for rows, parts in answers(tuner.forward, self.corpus):
            places = np.concatenate([np.arange(starts[row], starts[row] + self.corpus.lengths[row]) for row in rows])
            for spec, own, part in zip(tuner.specs, whole, parts, strict=True):
                own[places if spec.reads_tokens else rows] = part.numpy()
        return whole

    @property
    def num_labelled(self) -> int:
        """Texts that some head can be asked about."""
        return int(np.any([own.known for own in self.labels.values()], axis=0).sum())

    def worth(self, tuner: Tuner) -> float:
        """How good the answers are, over heads that some text has a label of."""
        asked = [
            (spec, own)
            for spec, own in zip(tuner.specs, self.outputs(tuner), strict=True)
            if self.labels[spec.name].known.any()
        ]
        return float(np.mean([self.head_worth(spec, own) for spec, own in asked]))

    def head_worth(self, spec: HeadSpec, outputs: Outputs) -> float:
        """One head's; that of several labels answers at its best threshold."""
        if spec.kind == "multi":
            return max(self._worth_at(at_threshold(spec, float(t)), outputs) for t in THRESHOLDS[::5])
        return self._worth_at(spec, outputs)

    def best_threshold(self, spec: HeadSpec, outputs: Outputs) -> float:
        """The threshold of best worth."""
        return float(max(THRESHOLDS, key=lambda t: self._worth_at(at_threshold(spec, float(t)), outputs)))

    def _worth_at(self, spec: HeadSpec, outputs: Outputs) -> float:
        own = self.labels[spec.name]
        table = pa.Table.from_arrays(spec.columns(outputs, self.tokens), schema=spec.schema)
        metric = KINDS[spec.kind].metrics(spec, own.truth[own.known], answers_of(spec, table).take(own.known))[0]
        return 1 - metric.value() / metric.span if metric.lower_is_better else metric.value()


def answers(
    forward: Callable[[PackedBatch], list[torch.Tensor]], corpus: Corpus
) -> Iterator[tuple[NDArray[np.int64], list[torch.Tensor]]]:
    """Go through a whole corpus, batch by batch: which texts, and what `forward` gives for them."""
    for rows in batches(corpus.lengths, TOKEN_BUDGET):
        with torch.inference_mode():
            outputs = forward(pack(np.concatenate(corpus.gather(rows)), corpus.lengths[rows]))
        yield rows, outputs


def head_outputs(tuner: Tuner, head: str, texts: Sequence[str], tokeniser: Tokeniser) -> Outputs:
    """N x C outputs of one head that reads whole texts."""
    index = [spec.name for spec in tuner.specs].index(head)
    found = np.empty((len(texts), len(tuner.specs[index].labels)), np.float32)
    for rows, outputs in answers(tuner.forward, corpus_of(tokeniser.encode(texts), (), np.zeros(len(texts), np.int32))):
        found[rows] = outputs[index].numpy()
    return found


def at_threshold(spec: HeadSpec, threshold: float) -> HeadSpec:
    """The head with another threshold."""
    return spec.model_copy(update={"threshold": threshold})


def features(tuner: Tuner, corpus: Corpus) -> NDArray[np.float32]:
    """N x D mean-pooled vectors."""
    found = np.empty((len(corpus), tuner.trunk.arch.hidden_size), np.float32)

    def forward(batch: PackedBatch) -> list[torch.Tensor]:
        return [tuner.pooled(batch, "mean")]

    for rows, (vectors,) in answers(forward, corpus):
        found[rows] = vectors.numpy()
    return found
