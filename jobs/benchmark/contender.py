"""What takes part in a measurement: the seam between the measuring process and whatever scores.

A contender is a class that a worker process builds from an `Order`, tunes over its own `settings`, and asks to score.
This file crosses into the peers' virtual environment: it imports nothing but the work.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jobs.benchmark.work import Work


@dataclass(frozen=True)
class Order:
    """What a worker needs to load: the model in both forms, how to compute, and a folder for files of its own.

    `is_gated` False: random weights, which have no accuracy that a precision could spoil.
    """

    bundle: str
    hf_folder: str
    scratch: str
    threads: int
    precision: str = "fp32"
    device: str = "cpu"
    is_gated: bool = True

    @property
    def model_path(self) -> Path:
        """The Hugging Face folder."""
        return Path(self.hf_folder)


@dataclass(frozen=True)
class Setting:
    """How to batch: `budget` counts tokens or rows, whichever the contender batches by; `streams` run side by side."""

    budget: int
    streams: int = 1

    def __str__(self) -> str:
        return f"{self.budget}" if self.streams == 1 else f"{self.budget} in {self.streams} streams"


@dataclass(frozen=True)
class Answer:
    """Probabilities, N x C, in the order of the texts, and how many token slots were computed, padding included.

    0 slots: not known. `flops` are the operations needed, where a contender leaves out what nobody reads.
    """

    probs: NDArray[np.float32]
    slots: int
    flops: int | None = None


class Contender(Protocol):
    """Built once from an order, in a process of its own."""

    settings: tuple[Setting, ...]
    note: str

    def __init__(self, order: Order, calibration: Work) -> None:
        """Load; `calibration` is for those that quantise with the help of examples."""

    def score(self, work: Work, setting: Setting) -> Answer:
        """Score all texts."""


@dataclass(frozen=True)
class Entry:
    """A contender by name.

    Parameters
    ----------
    target : `module:Class`.
    precision : it computes in; also whose limit it is held against.
    takes_texts : tokenises by itself, inside the clock.
    thinned : share of the texts that it gets, because it would take minutes for all.
    packages : distributions whose versions are worth stating.
    """

    name: str
    target: str
    precision: str = "fp32"
    takes_texts: bool = False
    thinned: float = 1.0
    is_ours: bool = False
    packages: tuple[str, ...] = field(default=("torch",))


def padded_batches(lengths: NDArray[np.integer], budget: int) -> list[NDArray[np.int64]]:
    """Cut texts, longest first, so that rows times the longest of a batch stay within `budget`.

    What a careful user of a padding engine does by hand.
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    batches, begin = [], 0
    while begin < len(order):
        rows = max(1, budget // int(lengths[order[begin]]))
        batches.append(order[begin : begin + rows])
        begin += rows
    return batches


def rectangle(work: Work, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and mask, each B x S, of a batch padded with zeros to its longest text."""
    lengths, starts = work.lengths[rows].astype(np.int64), work.starts[rows]
    column = np.arange(int(lengths.max()))
    mask = column[None, :] < lengths[:, None]
    ids = np.where(mask, work.ids[np.minimum(starts[:, None] + column, len(work.ids) - 1)], 0)
    return ids.astype(np.int64), mask.astype(np.int64)


def softmax(logits_bc: NDArray[np.floating]) -> NDArray[np.float32]:
    """Row by row, in fp32."""
    logits = np.asarray(logits_bc, dtype=np.float32)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)
