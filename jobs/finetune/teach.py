"""What teachers say of texts: another bundle's probabilities, which a head learns beside labels or instead of them.

Distillation (Hinton et al. 2015, equation 2) at the teacher's own temperature: a calibrated teacher also says how sure
one may be. A teacher answers the texts to train on alone, before the first step.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from jobs.evaluate.answers import BundleSystem
from jobs.finetune.data import Data
from jobs.finetune.device import choose_device
from jobs.finetune.settings import CORRECTIONS, FinetuneError, FinetuneSettings, TeacherSettings
from jobs.finetune.split import TRAIN
from models.bundle import Bundle
from models.fetch import fetch
from models.precision import choose_precision

log = logging.getLogger("verbatim.finetune")

TOKEN_BUDGET = 4096
KINDS = ("single", "ordinal")  # of heads that may be taught


@dataclass(frozen=True)
class Taught:
    """What a head is told of N texts.

    probs_nc : probabilities over its labels; any where nothing is told.
    weights : (N,) beside a label; 0 where nothing is told.
    """

    probs_nc: NDArray[np.float32]
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class Teacher:
    """A bundle and what it is to teach."""

    bundle: Bundle
    settings: TeacherSettings


def fetch_teachers(settings: FinetuneSettings) -> list[Teacher]:
    """All teachers' bundles.

    Raises
    ------
    ValueError, OSError : one isn't there or isn't a bundle.
    """
    return [Teacher(fetch(one.bundle), one) for one in settings.teachers]


def check_teachers(teachers: Sequence[Teacher], data: Data) -> None:
    """Find out before anything is answered whether each can teach its head.

    Raises
    ------
    FinetuneError : no such head is learnt, it isn't one label a text, or the teacher's labels are others.
    """
    fit = {
        head.spec.name: list(head.spec.labels)
        for head in data.heads
        if head.spec.kind in KINDS and data.labels[head.spec.name].allowed is None
    }
    for teacher in teachers:
        name, bundle = teacher.settings.head, teacher.bundle
        if name not in fit:
            raise FinetuneError(f"teachers: head {name!r} can't be taught; of one exact label a text are {list(fit)}")
        theirs = {head.name: list(head.labels) for head in bundle.spec.heads if head.kind in KINDS}.get(name, [])
        if set(theirs) != set(fit[name]):
            raise FinetuneError(f"teachers: {bundle} has {theirs} as {name!r}; to be taught are {fit[name]}")


def ask(teachers: Sequence[Teacher], data: Data, settings: FinetuneSettings) -> dict[str, Taught]:
    """Have all teachers answer their texts to train on; by head."""
    specs = {head.spec.name: head.spec for head in data.heads}
    answers: dict[str, Taught] = {}
    for teacher in teachers:
        labels = specs[teacher.settings.head].labels
        own = answers.setdefault(teacher.settings.head, _nothing(len(data), len(labels)))
        rows = _taught_rows(data, teacher.settings.sets)
        own.probs_nc[rows] = _probabilities(teacher, labels, [data.texts[row] for row in rows], settings)
        own.weights[rows] = teacher.settings.weight
        log.info("teacher %s: %s of %d texts", teacher.bundle, teacher.settings.head, len(rows))
    return answers


def _taught_rows(data: Data, sets: Sequence[str]) -> NDArray[np.int64]:
    """Rows to train on of some sets, without texts that people put right: theirs is the last word."""
    names = np.array(data.names)[data.sets]
    corrected = {data.texts[row] for row in np.flatnonzero(names == CORRECTIONS)}
    rows = np.flatnonzero(np.isin(names, sets) & (data.parts == TRAIN))
    return rows[[data.texts[row] not in corrected for row in rows]]


def _nothing(num_texts: int, num_labels: int) -> Taught:
    return Taught(np.zeros((num_texts, num_labels), np.float32), np.zeros(num_texts, np.float32))


def _probabilities(
    teacher: Teacher, labels: Sequence[str], texts: Sequence[str], settings: FinetuneSettings
) -> NDArray[np.float32]:
    """N x C, in the order of the taught head's labels."""
    device = choose_device(settings.device).type
    precision = choose_precision(settings.precision, on_gpu=device == "cuda")
    threads = torch.get_num_threads()
    system = BundleSystem(teacher.bundle, precision, token_budget=TOKEN_BUDGET, device=device, threads=threads)
    probs_nc = system.answer(texts).answers[teacher.settings.head].probs_nc
    assert probs_nc is not None
    theirs = next(head.labels for head in teacher.bundle.spec.heads if head.name == teacher.settings.head)
    return probs_nc[:, [theirs.index(label) for label in labels]].astype(np.float32)
