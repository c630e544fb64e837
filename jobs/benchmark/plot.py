"""Throughput against text length: real tokens a second at six lengths, ours and the best peer of each library.

All texts of a point have one length, so nobody pads; what is left is the engines themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from jobs.benchmark.row import Row
from jobs.benchmark.work import made_up

if TYPE_CHECKING:
    from jobs.benchmark.arena import Arena

LENGTHS = (8, 16, 32, 64, 128, 256)
_TOKENS = 32_768  # several batches at every budget, so that no core is idle
_ROUNDS = 2
_OURS = {"fp32": "#8fb8de", "bf16": "#2b7bba", "int8": "#08306b"}
_PEERS = ("#b5651d", "#6b8e23", "#8b8b8b", "#b07aa1")


@dataclass(frozen=True)
class Point:
    """Tokens a second of one contender at one length."""

    name: str
    length: int
    tokens_per_s: float


def require_matplotlib() -> None:
    """Say before a long measurement, not after it, that the plot can't be drawn.

    Raises
    ------
    ValueError : matplotlib isn't installed in this environment.
    """
    if find_spec("matplotlib") is None:
        raise ValueError(
            "--plot needs matplotlib, which isn't installed here: `pip install -c constraints.txt "
            "-c constraints-bench.txt matplotlib`, or run with .venv-bench/bin/python"
        )


def measure_lengths(arena: Arena, rows: Sequence[Row]) -> Iterator[Point]:
    """Run the chosen contenders in turns at every length their model takes."""
    chosen = [ready for ready in arena.ready if ready.entry.name in lines(rows)]
    limit = arena.model.bundle.spec.max_length
    for length in (length for length in LENGTHS if length <= limit):
        num_texts = max(1, _TOKENS // length)
        folder = arena.folder / f"length-{length}"
        made_up(np.full(num_texts, length, np.int32), arena.model.architecture.vocab_size).save(folder)
        seconds: dict[str, list[float]] = {ready.entry.name: [] for ready in chosen}
        for _ in range(1 + _ROUNDS):
            for ready in chosen:
                seconds[ready.entry.name].append(arena.speed_on(ready, folder))
        for name, took in seconds.items():
            yield Point(name, length, num_texts * length / median(took[1:]))  # the first run warms up


def lines(rows: Sequence[Row]) -> list[str]:
    """Names of what is drawn: ours on token ids, and of each peer's library that takes token ids the fastest."""
    ours = [row.name for row in rows if row.name.startswith("verbatim") and "+" not in row.name]
    best: dict[str, Row] = {}
    for row in rows:
        library = row.name.partition("-")[0]
        takes_ids = library in ("transformers", "onnxruntime", "openvino") and row.name != "transformers-pipeline"
        if takes_ids and (library not in best or row.docs_per_s > best[library].docs_per_s):
            best[library] = row
    return ours + [row.name for row in best.values()]


def draw(points: Sequence[Point], path: Path, title: str) -> None:
    """Write the PNG. Lines are labelled at their end, in the order they end."""
    import_module("matplotlib").use("agg")
    plt = import_module("matplotlib.pyplot")
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    names = list(dict.fromkeys(point.name for point in points))
    peers = [name for name in names if not name.startswith("verbatim")]
    for name in names:
        mine = [point for point in points if point.name == name]
        is_ours = name not in peers
        color = _OURS.get(name.partition("-")[2], "#2b7bba") if is_ours else _PEERS[peers.index(name) % len(_PEERS)]
        axes.plot(
            [point.length for point in mine],
            [point.tokens_per_s for point in mine],
            color=color,
            linewidth=2.4 if is_ours else 1.4,
            linestyle="-" if is_ours else "--",
            marker="o",
            markersize=4,
            label=name,
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths := sorted({point.length for point in points}), [str(length) for length in lengths])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("tokens a text")
    axes.set_ylabel("real tokens a second")
    axes.set_title(title, loc="left")
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    _legend(axes, points)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _legend(axes: object, points: Sequence[Point]) -> None:
    """Beside the axes, in the order in which the lines end."""
    last = {point.name: point.tokens_per_s for point in points}
    handles, labels = axes.get_legend_handles_labels()  # type: ignore[attr-defined]
    ordered = sorted(zip(handles, labels, strict=True), key=lambda pair: -last[pair[1]])
    axes.legend(  # type: ignore[attr-defined]
        *zip(*ordered, strict=True), loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False
    )


def as_plain(points: Sequence[Point]) -> list[dict[str, object]]:
    """The points as JSON takes them."""
    return [asdict(point) for point in points]
