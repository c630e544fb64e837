"""What a head's outputs are held against in training, and how far they are off.

One label of several: cross-entropy; where a row allows several answers, -log of their summed probability; where a
teacher speaks, cross-entropy against the mean of its probabilities and the label's, or its alone. Several
labels: binary cross-entropy, each label for itself, but those left open. Spans: cross-entropy of every token's tag.
Rows that don't know a head's label don't count for it; other rows count by their weight and, where `class_weights` is
`balanced`, by how rare their label is (root of the inverse share, within 5 times).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from jobs.evaluate.labels import OPEN
from jobs.finetune.data import Data, Labels
from jobs.finetune.heads import LearntHead
from jobs.finetune.spans import IGNORED, token_tags
from jobs.finetune.split import TRAIN
from jobs.finetune.teach import Taught
from models.tokeniser import Tokens

MOST = 5.0  # a class weight, and its inverse


@dataclass(frozen=True)
class Target:
    """A head's targets of N texts.

    known : (N,) which rows have something to teach.
    values : (N,) codes, (N, C) allowed answers, (N, C) probabilities, (N, C) decisions of 1, 0 and `OPEN`, or (T,) tags
        of all tokens.
    starts : (N,) where a text's tags begin; None for text heads.
    class_weights : (C,)
    """

    head: LearntHead
    known: NDArray[np.bool_]
    values: torch.Tensor
    starts: NDArray[np.int64] | None
    class_weights: torch.Tensor

    def loss(
        self, outputs: torch.Tensor, rows: NDArray[np.int64], lengths: NDArray[np.int32], weights: torch.Tensor
    ) -> torch.Tensor:
        """Weighted mean over the rows that know a label; 0 if none does."""
        known = torch.from_numpy(self.known[rows])
        if not bool(known.any()):
            return outputs.sum() * 0.0
        if self.starts is not None:
            return self._tag_loss(outputs, rows, lengths, torch.where(known, weights, 0.0))
        values, own = self.values[torch.from_numpy(rows)][known], weights[known]
        if self.head.spec.kind == "multi":
            aims = values.clamp_min(0)
            losses = functional.binary_cross_entropy_with_logits(outputs[known], aims, reduction="none")
            counts = torch.where(values > 0, self.class_weights, 1.0) * (values != OPEN)
            losses = (losses * counts).sum(dim=1)
        elif values.is_floating_point():
            losses = functional.cross_entropy(outputs[known], values, reduction="none")
            own = own * (values * self.class_weights).sum(dim=1)
        elif values.dim() == 2:
            log_probs = functional.log_softmax(outputs[known], dim=1)
            losses = -log_probs.masked_fill(~values, -torch.inf).logsumexp(dim=1)
            own = own * (values * self.class_weights).sum(dim=1) / values.sum(dim=1)
        else:
            losses = functional.cross_entropy(outputs[known], values, reduction="none")
            own = own * self.class_weights[values]
        return (losses * own).sum() / own.sum()

    def _tag_loss(
        self, outputs: torch.Tensor, rows: NDArray[np.int64], lengths: NDArray[np.int32], weights: torch.Tensor
    ) -> torch.Tensor:
        assert self.starts is not None
        places = np.concatenate(
            [np.arange(self.starts[r], self.starts[r] + n) for r, n in zip(rows, lengths, strict=True)]
        )
        tags = self.values[torch.from_numpy(places)]
        own = weights.repeat_interleave(torch.from_numpy(lengths.astype(np.int64)))
        own = own * (tags != IGNORED) * self.class_weights[tags.clamp_min(0)]
        losses = functional.cross_entropy(outputs, tags, reduction="none", ignore_index=IGNORED)
        return (losses * own).sum() / own.sum().clamp_min(1e-9)


def build_targets(data: Data, tokens: Tokens, taught: Mapping[str, Taught]) -> list[Target]:
    """One a head; `taught` is what teachers say, by head."""
    return [_target(data, head, tokens, taught.get(head.spec.name)) for head in data.heads]


def _target(data: Data, head: LearntHead, tokens: Tokens, taught: Taught | None) -> Target:
    own, spec = data.labels[head.spec.name], head.spec
    training = np.isin(np.arange(len(data)), data.rows(TRAIN)) & own.known
    if spec.kind == "token":
        tags = token_tags(list(own.truth), spec.labels, tokens)
        starts = np.cumsum(tokens.lengths, dtype=np.int64) - tokens.lengths
        used = tags[np.repeat(training, tokens.lengths) & (tags != IGNORED)]
        weights = _class_weights(head, np.bincount(used, minlength=len(spec.labels)))
        return Target(head, own.known, torch.from_numpy(tags), starts, weights)
    if spec.kind == "multi":
        values = torch.from_numpy(own.truth).float()
        return Target(head, own.known, values, None, _class_weights(head, (own.truth[training] > 0).sum(axis=0)))
    counts = np.bincount(own.truth[training], minlength=len(spec.labels))
    if taught is not None:
        return _taught(head, own, taught, _class_weights(head, counts))
    values = torch.from_numpy(own.truth if own.allowed is None else own.allowed)
    return Target(head, own.teaches, values, None, _class_weights(head, counts))


def _taught(head: LearntHead, own: Labels, taught: Taught, class_weights: torch.Tensor) -> Target:
    """The label's share and the teacher's; of the two that one alone which speaks."""
    shares = np.where(own.known, taught.weights, taught.weights > 0)[:, None]
    label_nc = np.eye(len(head.spec.labels))[own.truth] * own.known[:, None]
    values = torch.from_numpy((1 - shares) * label_nc + shares * taught.probs_nc).float()
    return Target(head, own.known | (taught.weights > 0), values, None, class_weights)


def _class_weights(head: LearntHead, counts: NDArray[np.int64]) -> torch.Tensor:
    if head.settings.class_weights == "none":
        return torch.ones(len(counts))
    rarity = np.sqrt(counts.mean() / np.maximum(counts, 1))
    return torch.from_numpy(np.clip(rarity, 1 / MOST, MOST)).float()
