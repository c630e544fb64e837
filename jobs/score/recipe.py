"""What every worker of a run must know, and what a read task is told: small, frozen, picklable."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from jobs.reading.columns import Columns
from jobs.reading.parts import UnitLimits
from jobs.reading.spans import Span
from jobs.score.layout import SetLayout, SpanName
from models.bundle import Bundle
from models.fetch import fetch
from models.precision import Precision


@dataclass(frozen=True)
class Recipe:
    """A run. `bundle` is a reference with its digest, so that no worker can score with another one."""

    bundle: str
    heads: tuple[str, ...]
    columns: Columns
    limits: UnitLimits
    layout: SetLayout
    precision: Precision
    device: Literal["cpu", "cuda"]
    token_budget: int | None  # None only while it is being looked for
    threads: int


@dataclass(frozen=True)
class SpanTask:
    """A span to read, its name, its share of the file's size, and which of its parts are done already."""

    span: Span
    name: SpanName
    num_bytes: int
    done: frozenset[int]


@lru_cache(maxsize=1)
def worker_bundle(reference: str, heads: tuple[str, ...]) -> Bundle:
    """Fetch a bundle once a worker process: its tasks come again and again."""
    return fetch(reference).read_by(heads)
