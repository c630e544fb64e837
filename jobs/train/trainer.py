"""The steps of a pretraining, as each of its workers takes them.

A step's texts follow from the plan, its noise from the seed and its number, so a checkpoint needs only weights,
optimizer and step, and a run that was killed anywhere ends with the same bytes (on CPU; with as many threads and
workers). While a step computes, a thread makes the next one's inputs. A loss is divided by the words of all workers, so
the number of workers doesn't change what is learnt. Given up: equal bytes over different numbers of workers, whose sums
differ in their last bits.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from cluster.stores import Store, open_store
from jobs.train import checkpoints
from jobs.train.crew import Crew, Spread
from jobs.train.curves import Curve, Point
from jobs.train.encoding import ID, Words
from jobs.train.heap import tidy
from jobs.train.loop import TrainingError
from jobs.train.networks import CausalLanguageModel, LanguageModel, MaskedLanguageModel
from jobs.train.optim import Optimizer, Share, rate_at, share_of
from jobs.train.parent import begin_as
from jobs.train.plan import Rows, plan_steps
from jobs.train.pretrain_settings import GPT, PretrainSettings
from jobs.train.sequences import Composer, StepInputs, cut_pieces
from jobs.train.tokens import TokenStore
from jobs.train.work import training_flops
from models.architecture import Architecture
from models.forward import DTYPES
from models.limits import matmul_flops_per_s
from models.precision import Precision

log = logging.getLogger("verbatim.train")

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Job:
    """All that a worker must know; small and picklable."""

    settings: PretrainSettings
    architecture: Architecture
    tokens: str  # URI of the token store
    tokenizer: str  # its JSON
    words: Words
    precision: Precision
    recipe: dict[str, Any]


def build_model(job: Job) -> LanguageModel:
    """The model before its first step; the same wherever it is built."""
    torch.manual_seed(job.settings.seed)
    dropout = job.settings.architecture.dropout
    if job.settings.architecture.family == GPT:
        return CausalLanguageModel(job.architecture, dropout)
    model = MaskedLanguageModel(job.architecture, dropout, has_order=job.settings.objective.sentence_order)
    if job.settings.bundle is not None:
        begin_as(model.trunk, job.settings.bundle)
    return model


class Trainer:
    """One worker's part of a run."""

    def __init__(self, job: Job, crew: Crew) -> None:
        self._job, self._crew, self._settings = job, crew, job.settings
        tokens = TokenStore(job.tokens)
        objective = self._settings.objective
        num_special = 1 if objective.kind == "clm" else 2 + objective.sentence_order
        pieces = cut_pieces(tokens, self._settings.architecture.max_length, num_special)
        self._steps = _plan(self._settings, pieces)
        self._composer = Composer(tokens, pieces, objective, Tokenizer.from_str(job.tokenizer), job.words)
        model = build_model(job)
        if isinstance(model, MaskedLanguageModel):
            _start_from_frequency(model, tokens)
        self._spread = Spread(model, crew, self._settings.sharding)
        self._optimizer = _optimizer(self._spread.model, self._settings)
        self._is_flash = crew.device.type == "cuda" and job.precision == "bf16"

    def run(self) -> None:
        """Take all steps that are left.

        Raises
        ------
        TrainingError : a loss or gradient isn't a finite number; the last checkpoint stays.
        """
        begin = self._resume()
        if begin == len(self._steps):
            return
        diary = _Diary(self, begin) if self._crew.is_first else None
        saved_at = time.monotonic()
        for number, inputs in self._inputs(begin):
            began = time.monotonic()
            facts = self._take(number, inputs)
            tidy(number + 1)
            if diary is not None:
                diary.add(number, facts, inputs, time.monotonic() - began)
            if self._is_due(number, saved_at):
                self._save(number + 1, diary)
                saved_at = time.monotonic()

    @cached_property
    def store(self) -> Store:
        """Where the run leaves what it makes."""
        return open_store(self._settings.output)

    @property
    def num_steps(self) -> int:
        """Of the whole run."""
        return len(self._steps)

    def rate(self, number: int) -> float:
        """Factor of the learning rates at a step."""
        return rate_at(number, len(self._steps), self._settings.schedule.warmup)

    def flops(self, inputs: StepInputs) -> int:
        """Operations that all workers' step takes."""
        is_causal = self._settings.objective.kind == "clm"
        return training_flops(
            self._job.architecture, inputs.num_tokens, inputs.num_squares, inputs.num_words, is_causal=is_causal
        )

    def limit_flops_per_s(self) -> float:
        """What the machine's matrix products reach, times the workers."""
        limit = matmul_flops_per_s(self._job.architecture, self._job.precision, self._crew.device.type)
        return (limit or math.nan) * self._crew.size

    @property
    def log_every_s(self) -> float:
        """Seconds between two words in the log."""
        return self._settings.log_every_s

    @property
    def rest_rate(self) -> float:
        """The highest learning rate, for the curve."""
        return self._settings.schedule.rate

    def _inputs(self, begin: int) -> Iterator[tuple[int, StepInputs]]:
        """Each step's inputs, the next one's made meanwhile."""
        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(self._compose, begin)
            for number in range(begin, len(self._steps)):
                inputs = coming.result()
                if number + 1 < len(self._steps):
                    coming = thread.submit(self._compose, number + 1)
                yield number, inputs

    def _compose(self, number: int) -> StepInputs:
        accumulate = self._settings.schedule.accumulate
        mine = slice(self._crew.rank * accumulate, (self._crew.rank + 1) * accumulate)
        rng = np.random.default_rng((self._settings.seed, number))
        num_passes = accumulate * self._crew.size
        return self._composer.compose(self._steps[number], rng, mine, num_passes, grouped=not self._is_flash)

    def _take(self, number: int, inputs: StepInputs) -> dict[str, float]:
        """Take one step; its losses and the gradient's norm."""
        torch.manual_seed((self._settings.seed * 1_000_003 + number) * self._crew.size + self._crew.rank)
        device = self._crew.device
        dtype = DTYPES[self._job.precision]
        divisors = torch.tensor([max(1, inputs.num_words), max(1, inputs.num_orders)], device=device)
        sums = torch.zeros(2, device=device)
        for index, one in enumerate(inputs.passes):
            with self._spread.syncing(is_last=index + 1 == len(inputs.passes)):
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    means = self._spread(one.to(device)) / divisors
                torch.autograd.backward(means.sum() * self._crew.size)  # workers' gradients are averaged
            sums += means.detach()
        words, orders = self._crew.sum(sums).tolist()
        norm = self._spread.clip(self._settings.schedule.clip)
        self._check_finite(words + orders, norm, number)
        self._optimizer.step(self.rate(number))
        return {"loss": words + orders, "word_loss": words, "order_loss": orders, "grad_norm": norm}

    def _check_finite(self, loss: float, norm: float, number: int) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        raise TrainingError(
            f"at step {number + 1} the loss is {loss} and the gradient's norm {norm}; a lower learning_rate or a "
            f"longer warmup helps. The last good checkpoint is kept in {self.store.uri(CHECKPOINTS)}"
        )

    def _resume(self) -> int:
        checkpoint = checkpoints.newest(self.store.child(CHECKPOINTS))
        if checkpoint is None:
            return 0
        checkpoint.load(self._spread.model, self._optimizer)
        if self._crew.is_first:
            log.info("going on at step %d of %d", checkpoint.step, len(self._steps))
        return checkpoint.step

    def _is_due(self, number: int, saved_at: float) -> bool:
        settings = self._settings.checkpoint
        if number + 1 == len(self._steps):
            return True
        if settings.every_steps is not None:
            return (number + 1) % settings.every_steps == 0
        return self._crew.agree(time.monotonic() - saved_at > settings.every_s)

    def _save(self, step: int, diary: _Diary | None) -> None:
        store, settings = self.store.child(CHECKPOINTS), self._settings.checkpoint
        is_first = self._crew.is_first
        tensors = checkpoints.state_tensors(
            self._spread.model, self._optimizer, lambda whole: whole.cpu() if is_first else None
        )
        if diary is None:
            for _ in tensors:  # gathering takes all workers
                pass
            return
        diary.put()  # a curve may be ahead of its checkpoint, never behind
        checkpoints.save(store, step, self._job.recipe, tensors, settings.max_file_bytes)
        checkpoints.prune(store, settings.keep)


class _Diary:
    """The curve and the log of a run; the first worker's."""

    def __init__(self, trainer: Trainer, begin: int) -> None:
        self._trainer = trainer
        self._curve = Curve(trainer.store, begin)
        self._limit = trainer.limit_flops_per_s()
        self._begin, self._began_at = begin, time.monotonic()
        self._spoke_at, self._points, self._taken_s = self._began_at, list[Point](), 0.0

    def add(self, number: int, facts: dict[str, float], inputs: StepInputs, seconds: float) -> None:
        trainer = self._trainer
        point = Point(
            step=number + 1,
            tokens=inputs.num_tokens,
            rate=trainer.rest_rate * trainer.rate(number),
            tokens_per_s=round(inputs.num_tokens / seconds, 1),
            limit_share=round(trainer.flops(inputs) / seconds / self._limit, 4),
            **facts,
        )
        self._curve.add(point)
        self._points.append(point)
        self._taken_s += seconds
        if time.monotonic() - self._spoke_at > trainer.log_every_s or point.step == trainer.num_steps:
            self._speak(point.step)

    def put(self) -> None:
        self._curve.put()

    def _speak(self, step: int) -> None:
        points, now = self._points, time.monotonic()
        left_s = (now - self._began_at) / (step - self._begin) * (self._trainer.num_steps - step)
        log.info(
            "step %d/%d  loss %.3f  %.0f tokens/s  %.0f %% of the matmul limit  ETA %.0f s",
            step,
            self._trainer.num_steps,
            float(np.mean([point.loss for point in points])),
            sum(point.tokens for point in points) / self._taken_s,
            100 * float(np.mean([point.limit_share for point in points])),
            left_s,
        )
        self._spoke_at, self._points, self._taken_s = now, [], 0.0


def _plan(settings: PretrainSettings, pieces: Any) -> list[Rows]:
    repeats = {str(number): source.weight for number, source in enumerate(settings.data)}
    schedule = settings.schedule
    return plan_steps(pieces, repeats, schedule.epochs, schedule.batch_tokens, settings.seed)[: schedule.max_steps]


def _start_from_frequency(model: MaskedLanguageModel, tokens: TokenStore) -> None:
    """Log frequencies are what the decoder says knowing nothing."""
    counts_v = torch.from_numpy(tokens.counts(len(model.decoder_bias), ID)).float() + 1
    with torch.no_grad():
        model.decoder_bias.copy_((counts_v / counts_v.sum()).log())


def _optimizer(model: LanguageModel, settings: PretrainSettings) -> Optimizer:
    schedule = settings.schedule
    share = share_of(model.parameters(), model.trunk.layers)
    if schedule.optimizer == "adamw":
        share = Share([], [*share.matrices, *share.rest])
    return Optimizer([share], schedule.rate, schedule.matrix_learning_rate, schedule.weight_decay)
