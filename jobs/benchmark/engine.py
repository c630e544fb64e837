"""`engine` mode: token ids in, probabilities out, in one process each: ours in every precision beside the peers.

Peers that only take texts are held against ours with the tokenising inside the clock (`verbatim-<precision>+tokenise`).
Rows are medians over rounds in which all ran in turns.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from jobs.benchmark.arena import Arena
from jobs.benchmark.contender import Entry
from jobs.benchmark.model import DEFAULT_SHAPE, Model, Shape, bundled_model, random_model
from jobs.benchmark.plot import Point, measure_lengths
from jobs.benchmark.roster import ours
from jobs.benchmark.row import Row, Runs, make_row, ratio
from jobs.benchmark.texts import gather
from jobs.benchmark.work import Work
from models.tokeniser import Tokeniser


@dataclass(frozen=True)
class EngineOptions:
    """What to measure.

    `bundle` None: a random trunk of `shape`. `texts` None: real feedback where it is, else made up.
    """

    precisions: tuple[str, ...]
    peers: tuple[Entry, ...]
    threads: int
    shape: Shape = DEFAULT_SHAPE
    bundle: str | None = None
    texts: Path | None = None
    num_texts: int = 2000
    rounds: int = 5
    seed: int = 0
    price_per_hour: float | None = None
    by_length: bool = False


@dataclass(frozen=True)
class EngineResult:
    """Rows, and what belongs beside them."""

    rows: tuple[Row, ...]
    left_out: Mapping[str, str]
    versions: Mapping[str, str]
    facts: Mapping[str, object]
    points: tuple[Point, ...] = field(default=())


def run_engine(options: EngineOptions) -> EngineResult:
    """Measure everything.

    Raises
    ------
    ValueError : texts, bundle or peers' environment can't be used.
    """
    with TemporaryDirectory(prefix="verbatim-benchmark-") as name:
        folder = Path(name)
        model = make_model(folder, options.bundle, options.shape, options.seed)
        work, origin = gather(options.texts, model.bundle, options.num_texts, options.seed)
        arena = Arena(model, work, folder, options.threads)
        with arena.open(entries(options.precisions, options.peers)):
            arena.play(options.rounds)
            runs = arena.results()
            rows = tuple(make_rows(arena, runs, options.price_per_hour))
            points = tuple(measure_lengths(arena, rows)) if options.by_length else ()
        facts = {"texts": origin, **_work_facts(work), **_limit_facts(arena), **_tokenise_facts(model, work)}
    return EngineResult(rows, arena.left_out, arena.versions, facts, points)


def make_model(folder: Path, reference: str | None, shape: Shape, seed: int) -> Model:
    """A user's bundle, or random weights."""
    return bundled_model(folder, reference) if reference else random_model(folder, shape, seed)


def entries(precisions: Sequence[str], peers: Sequence[Entry]) -> list[Entry]:
    """Who takes part; ours with tokenising only where a peer asks for the comparison. fp32 first: the reference."""
    ordered = sorted(precisions, key=lambda precision: precision != "fp32")
    with_texts = any(peer.takes_texts for peer in peers)
    mine = [ours(precision) for precision in ordered]
    tokenising = [ours(precision, from_texts=True) for precision in ordered] if with_texts else []
    return [*mine, *tokenising, *peers]


def make_rows(arena: Arena, results: Sequence[Runs], price_per_hour: float | None) -> list[Row]:
    """One row a contender; ours with their ratios to all others that are given the same (token ids, or texts)."""
    kinds = {ready.entry.name: ready.entry for ready in arena.ready}
    rows = []
    for runs in results:
        entry = kinds[runs.name]
        others = [
            other for other in results if kinds[other.name].takes_texts == entry.takes_texts and other is not runs
        ]
        ratios = {other.name: ratio(runs, other) for other in others} if entry.is_ours else {}
        rows.append(make_row(runs, arena.limits[entry.precision], price_per_hour, ratios))
    return rows


def _work_facts(work: Work) -> dict[str, object]:
    return {"tokens": f"{work.num_tokens:,}", "tokens a text": f"{work.num_tokens / len(work):.1f}"}


def _limit_facts(arena: Arena) -> dict[str, object]:
    return {
        f"matmul limit {precision}": f"{median(limits) / 1e9:,.0f} GFLOP/s"
        for precision, limits in arena.limits.items()
        if precision != "int8"
    }


def _tokenise_facts(model: Model, work: Work) -> dict[str, object]:
    seconds = median(_tokenise_s(model.bundle.tokeniser, work) for _ in range(3))
    return {"tokenising alone": f"{len(work) / seconds:,.0f} docs/s, {work.num_tokens / seconds:,.0f} tokens/s"}


def _tokenise_s(tokeniser: Tokeniser, work: Work) -> float:
    began = time.perf_counter()
    tokeniser.encode(work.texts)
    return time.perf_counter() - began
