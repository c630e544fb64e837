"""Masked-language pretraining: the trunk learns both languages from the feedback itself, with no label.

A third of the tokens is hidden and only these are predicted, so the decoder (a third of a small model's work) is paid
for a third of the tokens. The heads aren't trained here.
"""

from __future__ import annotations

import numpy as np
import torch

from jobs.train.corpus import Corpus
from jobs.train.learner import Learner
from jobs.train.loop import Step, StepLoss
from jobs.train.masking import Vocabulary, hide
from models.packing import pack


def pretrain_loss(
    corpus: Corpus, vocabulary: Vocabulary, mask_rate: float, precision: torch.dtype
) -> StepLoss[Learner]:
    """Build the loss of a pretraining step."""

    def loss_of(learner: Learner, step: Step) -> tuple[torch.Tensor, int]:
        texts = corpus.gather(step.rows)
        ids = np.concatenate(texts)
        noisy, positions = hide(ids, mask_rate, vocabulary, step.rng)
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            hidden_td = learner.trunk(pack(noisy, corpus.lengths[step.rows]))
            targets = torch.from_numpy(ids[positions]).long()
            return learner.mlm_loss(hidden_td, torch.from_numpy(positions), targets), len(ids)

    return loss_of
