"""The student learns from the lesson in the loop of every training, and is examined on texts kept back."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jobs.distil.losses import Asked, losses_of, total
from jobs.distil.settings import DistilSettings
from jobs.distil.student import Student
from jobs.distil.teacher import Lesson
from jobs.distil.words import words_of
from jobs.train.corpus import corpus_of, take_tokens
from jobs.train.loop import Clock, Course, Running, Step, run_steps
from jobs.train.optim import Optimizer, share_of
from jobs.train.plan import plan_steps
from models.batching import batches
from models.forward import DTYPES
from models.packing import pack
from models.precision import Precision
from models.tokeniser import Tokens

log = logging.getLogger("verbatim.distil")

CORPUS = "texts"
TOKEN_BUDGET = 4096  # of an exam
HELD_OUT, MOST_HELD_OUT = 0.02, 500  # share of texts, and no more texts than these, that only the card's figures see


@dataclass
class Curve:
    """Keeps the loss of every step, over kills."""

    losses: list[float] = field(default_factory=list)

    def after_step(self, number: int, loss: float, tokens: int) -> bool:
        """Never the last one."""
        self.losses.append(loss)
        return False

    def state_dict(self) -> dict[str, Any]:
        """The losses."""
        return {"losses": self.losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.losses = list(state["losses"])


@dataclass(frozen=True)
class Material:
    """N texts as the student reads them, and what the teacher says of each."""

    tokens: Tokens
    lesson: Lesson


class _Loss:
    """The loss of a step: all that the settings want, over its texts."""

    def __init__(self, material: Material, settings: DistilSettings, precision: Precision) -> None:
        self._tokens, self._lesson, self._settings = material.tokens, material.lesson, settings
        self._dtype = DTYPES[precision]

    def __call__(self, student: Student, step: Step) -> tuple[torch.Tensor, int]:
        found = self.parts(student, step.rows)
        return total(found, self._settings.losses), int(self._tokens.lengths[step.rows].sum())

    def parts(self, student: Student, rows: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """Each loss by its name."""
        tokens, wanted = take_tokens(self._tokens, rows), self._settings.losses
        words = words_of(tokens) if wanted.need_words else None
        device = student.trunk.word_embeddings.weight.device.type
        with torch.autocast(device, self._dtype, enabled=self._dtype != torch.float32):
            states = student(pack(tokens.ids, tokens.lengths))
        asked = Asked(self._lesson, rows, words)
        return losses_of(student, states, asked, wanted, self._settings.temperature)


@dataclass(frozen=True)
class Learnt:
    """What the card says: steps, the losses at either end, and each loss on texts kept back, before and after."""

    num_steps: int
    first_loss: float
    last_loss: float
    num_held_out: int
    before: dict[str, float]
    after: dict[str, float]


def learn(student: Student, material: Material, settings: DistilSettings, precision: Precision, work: Path) -> Learnt:
    """Train, going on from the checkpoint in `work` if there is one.

    Raises
    ------
    TrainingError : the loss stopped being a number.
    """
    tokens, schedule = material.tokens, settings.schedule
    training, held_out = _parts(len(tokens), settings.seed)
    loss_of = _Loss(material, settings, precision)
    before = _examine(student, loss_of, tokens, held_out)
    corpus = corpus_of(take_tokens(tokens, training), (CORPUS,), np.zeros(len(training), np.int32))
    places = plan_steps(corpus, {CORPUS: 1.0}, schedule.epochs, schedule.token_budget, settings.seed)
    steps = [training[rows] for rows in places]
    log.info("%d texts, %d tokens, %d steps", len(training), int(corpus.lengths.sum()) * schedule.epochs, len(steps))
    share = share_of([p for p in student.parameters() if p.requires_grad], student.trunk.layers)
    optimizer = Optimizer([share], schedule.learning_rate, schedule.matrix_learning_rate)
    curve, clock = Curve(), Clock(settings.log_every_s, settings.checkpoint_every_s)
    course = Course(steps, loss_of, schedule, settings.seed)
    run_steps(student, course, Running(student, optimizer, curve), work / "distil.pt", clock)
    after = _examine(student, loss_of, tokens, held_out)
    ends = float(np.mean(curve.losses[:20])), float(np.mean(curve.losses[-20:]))
    return Learnt(len(curve.losses), *ends, len(held_out), before, after)


def _parts(num_texts: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to learn from and rows kept back, at least one of either where there are two."""
    num = max(1, min(MOST_HELD_OUT, round(HELD_OUT * num_texts))) if num_texts > 1 else 0
    order = np.random.default_rng((seed, 1)).permutation(num_texts)
    return np.sort(order[num:]), np.sort(order[:num])


def _examine(student: Student, loss_of: _Loss, tokens: Tokens, rows: NDArray[np.int64]) -> dict[str, float]:
    """Each loss, the mean over texts."""
    student.eval()
    sums: dict[str, float] = {}
    for some in batches(tokens.lengths[rows], TOKEN_BUDGET):
        with torch.inference_mode():
            found = loss_of.parts(student, rows[some])
        for name, loss in found.items():
            sums[name] = sums.get(name, 0.0) + float(loss) * len(some) / len(rows)
    return sums
