"""The training loop of every stage: one plan of steps, checkpoints by the clock, the same end at any kill.

A step's noise comes from the seed and the step's number, so a resumed stage needs only weights, optimizer and step.
Checkpoints are plain tensors, put in place whole and read with `weights_only`. Given up: exactly equal runs over
different thread counts (sums differ in their last bits).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.train.learner import Learner
from jobs.train.optim import Optimizer, rate_at
from jobs.train.plan import Rows
from jobs.train.settings import StageSettings

log = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """Training can't go on; the message says at which step and what to do."""


@dataclass(frozen=True)
class Step:
    """One step to take: how far the stage is (0 to 1), its texts, and its own source of noise."""

    progress: float
    rows: Rows
    rng: np.random.Generator


StepLoss = Callable[[Learner, Step], tuple[torch.Tensor, int]]  # gives the loss and the tokens it read


@dataclass(frozen=True)
class Clock:
    """How often a running stage speaks and saves, in seconds."""

    log_every_s: float
    checkpoint_every_s: float


@dataclass(frozen=True)
class Course:
    """What a stage goes through: its steps in order, the loss of a step, its settings, and the seed of its noise."""

    steps: list[Rows]
    loss_of: StepLoss
    settings: StageSettings
    seed: int


def run_stage(learner: Learner, course: Course, path: Path, clock: Clock) -> None:
    """Train `learner` in place through a course, going on from the checkpoint at `path` if there is one.

    Raises
    ------
    TrainingError : the loss isn't a finite number; the last checkpoint stays.
    """
    steps, settings = course.steps, course.settings
    optimizer = Optimizer(learner, settings.learning_rate, settings.matrix_learning_rate)
    begin = _resume(path, learner, optimizer)
    meter = _Meter(path.stem, begin, len(steps), clock.log_every_s)
    saved_at = time.monotonic()
    learner.train()
    for number in range(begin, len(steps)):
        loss, tokens = _take(learner, course, number, optimizer, path)
        meter.add(number, loss, tokens)
        if time.monotonic() - saved_at > clock.checkpoint_every_s:
            _save(path, learner, optimizer, number + 1)
            saved_at = time.monotonic()
    if begin < len(steps):
        _save(path, learner, optimizer, len(steps))
    learner.eval()


def _take(learner: Learner, course: Course, number: int, optimizer: Optimizer, path: Path) -> tuple[float, int]:
    """Take one step; its loss and the tokens it read."""
    torch.manual_seed(course.seed * 1_000_003 + number)
    rng = np.random.default_rng((course.seed, number))
    step = Step(number / len(course.steps), course.steps[number], rng)
    loss, tokens = course.loss_of(learner, step)
    _check_finite(float(loss.detach()), number, path)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(learner.parameters(), course.settings.clip)
    optimizer.step(rate_at(number, len(course.steps), course.settings.warmup))
    return float(loss.detach()), tokens


def _check_finite(loss: float, number: int, path: Path) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"{path.stem}: the loss is {loss} at step {number}; a lower learning_rate or a longer warmup helps. "
            f"The last good checkpoint is kept: {path}"
        )


def _save(path: Path, learner: Learner, optimizer: Optimizer, step: int) -> None:
    state = {"model": learner.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def _resume(path: Path, learner: Learner, optimizer: Optimizer) -> int:
    """Fill in the checkpoint if there is one; the step to go on with."""
    if not path.is_file():
        return 0
    state: dict[str, Any] = torch.load(path, weights_only=True)
    learner.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    log.info("%s goes on at step %d", path.stem, state["step"])
    return int(state["step"])


class _Meter:
    """Says now and then how a stage goes."""

    def __init__(self, name: str, begin: int, num_steps: int, every_s: float) -> None:
        self._name, self._begin, self._num_steps, self._every_s = name, begin, num_steps, every_s
        self._started = self._spoken = time.monotonic()
        self._losses: list[float] = []
        self._tokens = 0

    def add(self, number: int, loss: float, tokens: int) -> None:
        self._losses.append(loss)
        self._tokens += tokens
        now = time.monotonic()
        if now - self._spoken < self._every_s and number + 1 < self._num_steps:
            return
        done = number + 1 - self._begin
        left_s = (now - self._started) / done * (self._num_steps - number - 1)
        log.info(
            "%s step %d/%d  loss %.3f  %.0f tokens/s  %.0f %%  ETA %.0f s",
            self._name,
            number + 1,
            self._num_steps,
            float(np.mean(self._losses)),
            self._tokens / (now - self._spoken + 1e-9),
            100 * (number + 1) / self._num_steps,
            left_s,
        )
        self._spoken, self._losses, self._tokens = now, [], 0
