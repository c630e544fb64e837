"""The loop that fine-tuning and distillation share: planned steps, checkpoints by the clock, the same end at any kill.

A step's noise comes from the seed and the step's number, so a resumed stage needs only weights, optimizer and step,
and what its watch knows: who ends a stage early, or keeps books of its steps. Checkpoints are plain tensors and
numbers, put in place whole and read with `weights_only`. Given up: exactly equal runs over different thread counts
(sums differ in their last bits).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from jobs.train.heap import tidy
from jobs.train.optim import Optimizer, rate_at
from jobs.train.plan import Rows

log = logging.getLogger("verbatim.train")


class TrainingError(RuntimeError):
    """Training can't go on; the message says at which step and what to do."""


@dataclass(frozen=True)
class Step:
    """One step to take: how far the stage is (0 to 1), its texts, and its own source of noise."""

    progress: float
    rows: Rows
    rng: np.random.Generator


Model = TypeVar("Model", bound=nn.Module)
StepLoss = Callable[[Model, Step], tuple[torch.Tensor, int]]  # gives the loss and the tokens it read


class Schedule(Protocol):
    """What the loop reads of a stage's settings."""

    @property
    def warmup(self) -> float:
        """Share of all steps."""

    @property
    def clip(self) -> float:
        """Largest norm of the gradient."""


class Watch(Protocol):
    """Looks on as a stage runs."""

    def after_step(self, number: int, loss: float, tokens: int) -> bool:
        """Take note of a step that was taken; whether the stage is to end with it."""

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors, lists and numbers, for a checkpoint."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""


@dataclass(frozen=True)
class Clock:
    """How often a running stage speaks and saves, in seconds."""

    log_every_s: float
    checkpoint_every_s: float


@dataclass(frozen=True)
class Course(Generic[Model]):
    """What a stage goes through: its steps in order, the loss of a step, its settings, and the seed of its noise."""

    steps: list[Rows]
    loss_of: StepLoss[Model]
    settings: Schedule
    seed: int


@dataclass(frozen=True)
class Running:
    """What a checkpoint keeps the state of."""

    model: nn.Module
    optimizer: Optimizer
    watch: Watch


def run_steps(model: Model, course: Course[Model], running: Running, path: Path, clock: Clock) -> None:
    """Train `model` in place through a course, going on from the checkpoint at `path` if there is one.

    Raises
    ------
    TrainingError : the loss isn't a finite number; the last checkpoint stays.
    """
    num_steps, watch = len(course.steps), running.watch
    begin, is_over = _resume(path, running)
    meter = _Meter(path.stem, begin, num_steps, clock.log_every_s)
    saved_at = time.monotonic()
    model.train()
    for number in range(begin, begin if is_over else num_steps):
        loss, tokens = _take(model, course, number, running.optimizer, path)
        tidy(number + 1)
        meter.add(number, loss, tokens)
        is_over = watch.after_step(number, loss, tokens) or number + 1 == num_steps
        if is_over or time.monotonic() - saved_at > clock.checkpoint_every_s:
            _save(path, running, number + 1, is_over)
            saved_at = time.monotonic()
        if is_over:
            break
    model.eval()


def _take(model: Model, course: Course[Model], number: int, optimizer: Optimizer, path: Path) -> tuple[float, int]:
    """Take one step; its loss and the tokens it read."""
    torch.manual_seed(course.seed * 1_000_003 + number)
    rng = np.random.default_rng((course.seed, number))
    step = Step(number / len(course.steps), course.steps[number], rng)
    loss, tokens = course.loss_of(model, step)
    _check_finite(float(loss.detach()), number, path)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), course.settings.clip)
    optimizer.step(rate_at(number, len(course.steps), course.settings.warmup))
    return float(loss.detach()), tokens


def _check_finite(loss: float, number: int, path: Path) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"{path.stem}: the loss is {loss} at step {number}; a lower learning_rate or a longer warmup helps. "
            f"The last good checkpoint is kept: {path}"
        )


def _save(path: Path, running: Running, step: int, is_over: bool) -> None:
    state = {
        "model": running.model.state_dict(),
        "optimizer": running.optimizer.state_dict(),
        "watch": running.watch.state_dict(),
        "step": step,
        "is_over": is_over,
    }
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def _resume(path: Path, running: Running) -> tuple[int, bool]:
    """Fill in the checkpoint if there is one; the step to go on with, and whether the watch ended the stage there."""
    if not path.is_file():
        return 0, False
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    running.model.load_state_dict(state["model"])
    running.optimizer.load_state_dict(state["optimizer"])
    running.watch.load_state_dict(state["watch"])
    log.info("%s goes on at step %d", path.stem, state["step"])
    return int(state["step"]), bool(state["is_over"])


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
