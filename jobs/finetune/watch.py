"""Looks on as the heads learn: keeps the loss curve, asks the exam after each epoch, and may end the training early.

A training that ends early keeps the best weights by the exam, as its rates are still high. One that goes through to its
end keeps its last: there the rates are 0, and a maximum over epochs would flatter (NOTES.md). Few texts to ask can't
tell one epoch from another, so they end nothing.
All it knows is in the checkpoint, so a run that was killed has the same curve and the same best weights. The time that
a limit counts is the time spent training, over all attempts.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import torch

from jobs.finetune.exam import Exam
from jobs.finetune.settings import ScheduleSettings
from jobs.finetune.tuner import Tuner

log = logging.getLogger("verbatim.finetune")

FEWEST_ASKED = 200  # labelled texts; of fewer, the standard error is over 2 points


class EarlyStop:
    """The watch of a run of `num_steps` in `epochs`."""

    def __init__(self, tuner: Tuner, exam: Exam, schedule: ScheduleSettings, epochs: int, num_steps: int) -> None:
        self._tuner, self._exam, self._schedule = tuner, exam, schedule
        self._num_steps = num_steps
        self._ends = {round(num_steps * (epoch + 1) / epochs) - 1 for epoch in range(epochs)}
        self.losses: list[float] = []
        self.worths: list[float] = []
        self.num_tokens, self.seconds = 0, 0.0
        self._best: dict[str, torch.Tensor] = {}
        self._since = time.monotonic()

    def after_step(self, number: int, loss: float, tokens: int) -> bool:
        """Note a step; at an epoch's end ask the exam."""
        self.losses.append(loss)
        self.num_tokens += tokens
        self.seconds += time.monotonic() - self._since
        is_over = number in self._ends and self._is_enough()
        limit = self._schedule.time_limit_s
        if limit is not None and self.seconds > limit:
            log.warning("time limit of %.0f s reached at step %d: the best weights so far are kept", limit, number + 1)
            is_over = True
        self._since = time.monotonic()
        return is_over

    def _is_enough(self) -> bool:
        """Ask the exam if there is one; whether some epochs have brought nothing better."""
        if not self._exam.num_labelled:
            return False
        self._tuner.eval()
        worth = self._exam.worth(self._tuner)
        self._tuner.train()
        if not self.worths or worth > max(self.worths):
            self._best = {name: tensor.clone() for name, tensor in self._tuner.state_dict().items()}
        self.worths.append(worth)
        log.info("epoch %d: %.2f on the texts kept for tuning", len(self.worths), 100 * worth)
        best_at = self.worths.index(max(self.worths))
        is_sure = self._exam.num_labelled >= FEWEST_ASKED
        return is_sure and len(self.worths) - 1 - best_at >= self._schedule.patience

    def settle(self) -> None:
        """Put the best weights back, if the training ended early."""
        if self._best and len(self.losses) < self._num_steps:
            self._tuner.load_state_dict(self._best)

    @property
    def tokens_per_s(self) -> float:
        """Of training, exams left out."""
        return self.num_tokens / self.seconds if self.seconds else math.nan

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        books = {"losses": self.losses, "worths": self.worths, "num_tokens": self.num_tokens, "seconds": self.seconds}
        return {**books, "best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.losses, self.worths = list(state["losses"]), list(state["worths"])
        self.num_tokens, self.seconds, self._best = state["num_tokens"], state["seconds"], dict(state["best"])
        self._since = time.monotonic()
