"""`job` mode: Parquet to Parquet through Ray, beside the engine alone on the same texts, precision and cores.

The steady state runs from the moment when as many units are written as there are actors (every actor has then begun
its second) to the last unit's writing; the tokens counted are those of all units written after that moment. Times are
those of the units' files. The engine is measured before and after the job, because Ray's processes need the cores.
Given up: start-up and planning, which `seconds` in the manifest holds; the report gives both.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.config import parse_config
from cluster.stores import open_store
from jobs.benchmark.arena import Arena, flops
from jobs.benchmark.engine import make_model
from jobs.benchmark.model import DEFAULT_SHAPE, Model, Shape
from jobs.benchmark.roster import ours
from jobs.benchmark.row import Row, Runs, make_row
from jobs.benchmark.texts import gather
from jobs.benchmark.work import Work, thin
from jobs.score.run import run
from jobs.score.settings import ScoreSettings
from jobs.score.write import read_counts

log = logging.getLogger("verbatim.benchmark")

_ENGINE_TEXTS = 600
_ENGINE_ROUNDS = 3
_FILES = 4
_UNITS_AN_ACTOR = 16


@dataclass(frozen=True)
class JobOptions:
    """What to measure. `num_texts` None: as many as the engine scores in `seconds`."""

    precision: str
    threads: int
    actor_threads: int = 1
    shape: Shape = DEFAULT_SHAPE
    bundle: str | None = None
    texts: Path | None = None
    num_texts: int | None = None
    seconds: float = 90.0
    seed: int = 0
    price_per_hour: float | None = None


@dataclass(frozen=True)
class Unit:
    """One written unit: when, and what it held."""

    written_at: float
    num_texts: int
    num_tokens: int


@dataclass(frozen=True)
class JobResult:
    """The engine's row, the job's row, and what belongs beside them."""

    rows: tuple[Row, Row]
    facts: Mapping[str, object]


def run_job(options: JobOptions) -> JobResult:
    """Measure the engine, the job, and the engine again.

    Raises
    ------
    ValueError : texts or bundle can't be used, or threads don't divide among actors.
    """
    if options.threads % options.actor_threads:
        raise ValueError(f"threads {options.threads} must be a multiple of actor_threads {options.actor_threads}")
    with TemporaryDirectory(prefix="verbatim-benchmark-") as name:
        folder = Path(name)
        model = make_model(folder, options.bundle, options.shape, options.seed)
        few, origin = gather(options.texts, model.bundle, options.num_texts or _ENGINE_TEXTS, options.seed)
        before = measure_engine(model, few, folder / "before", options)
        num_texts = options.num_texts or max(_ENGINE_TEXTS, int(options.seconds * before.docs_per_s()[-1]))
        work, origin = gather(options.texts, model.bundle, num_texts, options.seed)
        manifest = score_files(model, work, folder, options)
        units = read_units(manifest)
        after = measure_engine(model, few, folder / "after", options)
    engine = Runs(**{**vars(before), "seconds": before.seconds + after.seconds})
    job = steady(units, options, model, work)
    rows = _rows(engine, job, options)
    return JobResult(rows, {"texts": origin, **_facts(units, manifest, rows)})


def measure_engine(model: Model, work: Work, folder: Path, options: JobOptions) -> Runs:
    """The engine row alone, on texts of the same lengths."""
    folder.mkdir()
    arena = Arena(model, work.pick(thin(work.lengths, _ENGINE_TEXTS)), folder, options.threads)
    with arena.open([ours(options.precision)]):
        if arena.left_out:
            raise ValueError(f"precision {options.precision} can't be used here: {next(iter(arena.left_out.values()))}")
        arena.play(_ENGINE_ROUNDS)
        return arena.results()[0]


def score_files(model: Model, work: Work, folder: Path, options: JobOptions) -> dict[str, Any]:
    """Write the texts as Parquet, and run the scoring job on them; gives its manifest."""
    num_actors = options.threads // options.actor_threads
    write_corpus(work, folder / "corpus")
    plain = {
        "input": str(folder / "corpus"),
        "output": str(folder / "scored"),
        "bundle": str(model.bundle.folder),
        "columns": {"id": "id", "text": "text"},
        "precision": options.precision,
        "unit": {"rows": max(1, len(work) // (_UNITS_AN_ACTOR * num_actors))},
        "pool": {"threads": options.actor_threads, "min_size": num_actors, "max_size": num_actors},
    }
    log.info("the scoring job: %s texts with %s actors", len(work), num_actors)
    return run(parse_config(plain, ScoreSettings, "the benchmark"))


def write_corpus(work: Work, folder: Path) -> None:
    """A few Parquet files of like size."""
    folder.mkdir()
    table = pa.table({"id": [str(index) for index in range(len(work))], "text": list(work.texts)})
    rows = -(-len(work) // _FILES)
    for number, first in enumerate(range(0, len(work), rows)):
        pq.write_table(table.slice(first, rows), folder / f"{number}.parquet")


def read_units(manifest: Mapping[str, Any]) -> list[Unit]:
    """Units of a finished run, in the order they were written. The corpus holds no text twice, so texts are rows."""
    store, folder = open_store(manifest["output"]), Path(manifest["output"]) / manifest["scores"]
    units = []
    for path in folder.glob("*.parquet"):
        counts = read_counts(store, f"{manifest['scores']}/{path.name}")
        units.append(Unit(path.stat().st_mtime, counts.rows_scored, counts.tokens))
    return sorted(units, key=lambda unit: unit.written_at)


def steady(units: Sequence[Unit], options: JobOptions, model: Model, work: Work) -> Runs:
    """What the job did in its steady state, as one run.

    Raises
    ------
    ValueError : fewer units than it takes to have a steady state.
    """
    num_actors = options.threads // options.actor_threads
    counted = units[num_actors:]
    if len(counted) < num_actors:
        raise ValueError(f"num_texts {len(work)} made {len(units)} units for {num_actors} actors: too few to measure")
    num_tokens = sum(unit.num_tokens for unit in counted)
    return Runs(
        name=f"job-{options.precision}",
        seconds=(counted[-1].written_at - units[num_actors - 1].written_at,),
        num_texts=sum(unit.num_texts for unit in counted),
        num_tokens=num_tokens,
        slots=num_tokens,
        peak_bytes=0,
        flops=round(flops(model, work) * num_tokens / work.num_tokens),
        note=f"{num_actors} actors of {options.actor_threads} threads, steady state over {len(counted)} units",
    )


def _rows(engine: Runs, job: Runs, options: JobOptions) -> tuple[Row, Row]:
    engine_row = make_row(engine, price_per_hour=options.price_per_hour)
    tokens_per_s = job.num_tokens / job.seconds[0]
    ratios = {engine.name: tokens_per_s / engine_row.tokens_per_s}
    return engine_row, make_row(job, price_per_hour=options.price_per_hour, ratio_to=ratios)


def _facts(units: Sequence[Unit], manifest: Mapping[str, Any], rows: tuple[Row, Row]) -> dict[str, object]:
    engine, job = rows
    return {
        "job over engine, steady state": f"{job.tokens_per_s / engine.tokens_per_s:.1%} (tokens/s)",
        "whole run": f"{manifest['tokens_per_s']:,.0f} tokens/s in {manifest['seconds']:.1f} s, start-up included",
        "share of limit in its own actors": manifest["limit_share"],
        "units": len(units),
    }
