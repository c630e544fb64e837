"""The curve of a run: one line a step in `curve.csv`, and the same in TensorBoard's format where that is installed.

The file is put whole with every checkpoint, so it never knows more steps than can be gone on from, and a resumed run's
lines follow those of the run before as if nothing had happened. TensorBoard's files lie in local outputs alone.
"""

from __future__ import annotations

import csv
import importlib.util
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cluster.stores import LocalStore, Store

FILE = "curve.csv"
FOLDER = "tensorboard"


@dataclass(frozen=True)
class Point:
    """One step: counted from 1, over all workers; the losses are means a word and a pair of segments."""

    step: int
    tokens: int
    loss: float
    word_loss: float
    order_loss: float
    grad_norm: float
    rate: float
    tokens_per_s: float
    limit_share: float


class Curve:
    """The points of a run so far."""

    def __init__(self, store: Store, begin: int) -> None:
        self._store = store
        self._points = [point for point in read_curve(store) if point.step <= begin]
        self._board = _open_board(store, begin)

    def add(self, point: Point) -> None:
        """Take note of a step."""
        self._points.append(point)
        if self._board is not None:
            for name in ("loss", "word_loss", "order_loss", "grad_norm", "rate", "tokens_per_s", "limit_share"):
                self._board.add_scalar(name, getattr(point, name), point.step)

    def put(self) -> None:
        """Write the file."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(Point)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(point) for point in self._points)
        self._store.put(FILE, text.getvalue().encode())
        if self._board is not None:
            self._board.flush()


def read_curve(store: Store) -> list[Point]:
    """The points of `curve.csv`; none if there is no such file."""
    if not store.exists(FILE):
        return []
    rows = csv.DictReader(io.StringIO(store.read_bytes(FILE).decode()))
    return [_point(row) for row in rows]


def _point(row: dict[str, str]) -> Point:
    step, tokens, *others = (row[field.name] for field in fields(Point))
    return Point(int(step), int(tokens), *map(float, others))


def _open_board(store: Store, begin: int) -> Any:
    if not isinstance(store, LocalStore) or importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra

    return SummaryWriter(str(Path(store.root) / FOLDER), purge_step=begin + 1)
