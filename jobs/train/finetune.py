"""Fine-tuning: all heads at once, over sets that each label only some, with masked language as a companion loss.

Every text is read once a step, with a share of its words hidden that falls to none at the end: the hidden words are
noise for the heads and work for the companion loss, in one forward pass. Some texts are joined in pairs, as praise and
blame in one text are rare in the sets and common in life.
"""

from __future__ import annotations

import numpy as np
import torch

from jobs.train.corpus import Corpus
from jobs.train.learner import Learner, allowed_answers, allowed_loss
from jobs.train.loop import Step, StepLoss
from jobs.train.masking import Vocabulary, hide, join_texts
from jobs.train.sets import HEADS
from jobs.train.settings import StageSettings
from models.packing import pack


def finetune_loss(
    corpus: Corpus, vocabulary: Vocabulary, stage: StageSettings, longest: int, precision: torch.dtype
) -> StepLoss[Learner]:
    """Build the loss of a fine-tuning step."""

    def loss_of(learner: Learner, step: Step) -> tuple[torch.Tensor, int]:
        texts = corpus.gather(step.rows)
        texts, labels = join_texts(texts, corpus.labels[step.rows], stage.join_rate, longest, step.rng)
        ids = np.concatenate(texts)
        noisy, positions = hide(ids, stage.mask_rate * (1 - step.progress), vocabulary, step.rng)
        batch = pack(noisy, np.array([len(text) for text in texts]))
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            hidden_td = learner.trunk(batch)
            loss = _heads_loss(learner.head_logits(hidden_td, batch), labels)
            if stage.mlm_weight and len(positions):
                targets = torch.from_numpy(ids[positions]).long()
                loss = loss + stage.mlm_weight * learner.mlm_loss(hidden_td, torch.from_numpy(positions), targets)
        return loss, len(ids)

    return loss_of


def _heads_loss(logits: list[torch.Tensor], labels: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> torch.Tensor:
    losses = [
        allowed_loss(logits_bc.float(), allowed_answers(labels[:, index], len(head.labels)))
        for index, (head, logits_bc) in enumerate(zip(HEADS, logits, strict=True))
    ]
    return torch.stack(losses).sum()
