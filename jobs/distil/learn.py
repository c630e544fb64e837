"""The student learns from all lessons in the loop of every training, and is examined on texts kept back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jobs.distil.losses import Asked, losses_of, total
from jobs.distil.settings import DistilSettings, LessonSettings
from jobs.distil.student import Student
from jobs.distil.teacher import Lesson
from jobs.distil.words import words_of
from jobs.train.corpus import Corpus, take_tokens
from jobs.train.loop import Clock, Course, Running, Step, run_steps
from jobs.train.optim import Optimizer, share_of
from jobs.train.plan import plan_steps
from models.batching import batches
from models.forward import DTYPES
from models.packing import pack
from models.precision import Precision
from models.tokeniser import Tokens

log = logging.getLogger("verbatim.distil")

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
    """N texts as the student reads them, and what their teacher says of each."""

    tokens: Tokens
    lesson: Lesson


@dataclass(frozen=True)
class Timetable:
    """All lessons' training texts in one row: of each its lesson's place in `names` and its row there."""

    names: tuple[str, ...]
    rows: Mapping[str, NDArray[np.int64]]
    corpus: Corpus

    @classmethod
    def of(cls, materials: Mapping[str, Material], rows: Mapping[str, NDArray[np.int64]]) -> Timetable:
        """From the rows of each lesson that are trained on."""
        names = tuple(materials)
        parts = [take_tokens(materials[name].tokens, rows[name]) for name in names]
        lengths = np.concatenate([part.lengths for part in parts])
        lessons = np.repeat(np.arange(len(names), dtype=np.int32), [len(part) for part in parts])
        return cls(names, rows, Corpus(names, np.concatenate([part.ids for part in parts]), lengths, lessons))

    def split(self, texts: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """The lessons of a step's texts, with their rows there."""
        first = 0
        for place, name in enumerate(self.names):
            own = texts[self.corpus.sets[texts] == place]
            if len(own):
                yield name, self.rows[name][own - first]
            first += len(self.rows[name])


class _Loss:
    """The loss of a step: all that the lessons want, over its texts."""

    def __init__(
        self, materials: Mapping[str, Material], lessons: Mapping[str, LessonSettings], precision: Precision
    ) -> None:
        self._materials, self._lessons, self._dtype = materials, lessons, DTYPES[precision]

    def of_step(self, timetable: Timetable, student: Student, step: Step) -> tuple[torch.Tensor, int]:
        """The mean over texts of their lessons' weighted losses, and the tokens read."""
        losses, num_tokens = [], 0
        for name, rows in timetable.split(step.rows):
            loss = total(self.parts(student, name, rows), self._lessons[name].losses)
            losses.append(loss * (len(rows) / len(step.rows)))
            num_tokens += int(self._materials[name].tokens.lengths[rows].sum())
        return torch.stack(losses).sum(), num_tokens

    def parts(self, student: Student, name: str, rows: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """Each loss of a lesson by its name."""
        material, settings = self._materials[name], self._lessons[name]
        tokens = take_tokens(material.tokens, rows)
        words = words_of(tokens) if settings.losses.need_words else None
        device = student.trunk.word_embeddings.weight.device.type
        with torch.autocast(device, self._dtype, enabled=self._dtype != torch.float32):
            states = student(pack(tokens.ids, tokens.lengths))
        asked = Asked(material.lesson, rows, words)
        return losses_of(student.maps(name), states, asked, settings.losses, settings.temperature)


Nearness = dict[str, dict[str, float]]  # by lesson and loss


@dataclass(frozen=True)
class Learnt:
    """What the card says: steps, the losses at either end, and each loss on texts kept back, before and after."""

    num_steps: int
    first_loss: float
    last_loss: float
    num_held_out: int
    before: Nearness
    after: Nearness


def learn(
    student: Student, materials: Mapping[str, Material], settings: DistilSettings, precision: Precision, work: Path
) -> Learnt:
    """Train, going on from the checkpoint in `work` if there is one.

    Raises
    ------
    TrainingError : the loss stopped being a number.
    """
    schedule = settings.schedule
    parts = {name: _parts(len(material.tokens), settings.seed) for name, material in materials.items()}
    held_out = {name: rows for name, (_, rows) in parts.items()}
    timetable = Timetable.of(materials, {name: rows for name, (rows, _) in parts.items()})
    loss = _Loss(materials, settings.lessons, precision)
    before = _examine(student, loss, materials, held_out)
    repeats = dict.fromkeys(timetable.names, 1.0)
    steps = plan_steps(timetable.corpus, repeats, schedule.epochs, schedule.token_budget, settings.seed)
    num_tokens = int(timetable.corpus.lengths.sum()) * schedule.epochs
    log.info("%d texts, %d tokens, %d steps", len(timetable.corpus), num_tokens, len(steps))
    share = share_of([p for p in student.parameters() if p.requires_grad], student.trunk.layers)
    optimizer = Optimizer([share], schedule.learning_rate, schedule.matrix_learning_rate)
    curve, clock = Curve(), Clock(settings.log_every_s, settings.checkpoint_every_s)
    course = Course(steps, partial(loss.of_step, timetable), schedule, settings.seed)
    run_steps(student, course, Running(student, optimizer, curve), work / "distil.pt", clock)
    after = _examine(student, loss, materials, held_out)
    ends = float(np.mean(curve.losses[:20])), float(np.mean(curve.losses[-20:]))
    return Learnt(len(curve.losses), *ends, sum(map(len, held_out.values())), before, after)


def _parts(num_texts: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to learn from and rows kept back, at least one of either where there are two."""
    num = max(1, min(MOST_HELD_OUT, round(HELD_OUT * num_texts))) if num_texts > 1 else 0
    order = np.random.default_rng((seed, 1)).permutation(num_texts)
    return np.sort(order[num:]), np.sort(order[:num])


def _examine(
    student: Student, loss: _Loss, materials: Mapping[str, Material], held_out: Mapping[str, NDArray[np.int64]]
) -> Nearness:
    """Each lesson's losses, the mean over its texts."""
    student.eval()
    return {
        name: _nearness(partial(loss.parts, student, name), materials[name].tokens.lengths, rows)
        for name, rows in held_out.items()
    }


def _nearness(
    parts: Callable[[NDArray[np.int64]], dict[str, torch.Tensor]],
    lengths: NDArray[np.int32],
    rows: NDArray[np.int64],
) -> dict[str, float]:
    sums: dict[str, float] = {}
    for some in batches(lengths[rows], TOKEN_BUDGET):
        with torch.inference_mode():
            found = parts(rows[some])
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(some) / len(rows)
    return sums
