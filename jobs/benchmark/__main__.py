"""`python -m jobs.benchmark MODE`: measure the packed engine on this machine, beside its peers.

Modes: `engine` in process; `job` Parquet to Parquet through Ray; `serve` the service on loopback; `gpu` parity and
sweeps on a CUDA device; `memory` over a million texts; `peers` makes the peers' environment. Exit codes: 0 done;
1 `memory` found growth, or a part of `serve` failed; 2 something that was given, or that the machine lacks, makes it
impossible; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from jobs.benchmark import machine
from jobs.benchmark.engine import EngineOptions, EngineResult, run_engine
from jobs.benchmark.gpu import GpuOptions, run_gpu
from jobs.benchmark.install import install_peers
from jobs.benchmark.job import JobOptions, run_job
from jobs.benchmark.memory import growth, is_flat, stream
from jobs.benchmark.model import DEFAULT_SHAPE, Shape
from jobs.benchmark.plot import as_plain, draw, require_matplotlib
from jobs.benchmark.roster import PRECISIONS, choose_peers, choose_precisions
from jobs.benchmark.row import Row, write_rows
from jobs.benchmark.serve.options import ServeOptions, choose_parts, choose_servers, choose_sizes
from jobs.benchmark.serve.row import write_rows as write_serve_rows
from jobs.benchmark.serve.run import run_serve
from jobs.benchmark.serve.table import table as serve_table
from jobs.benchmark.serve.table import targets_table
from jobs.benchmark.table import facts, ratios, table
from models.fetch import fetch
from models.precision import Precision, choose_precision


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, report."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("verbatim").setLevel(logging.INFO)  # other libraries speak from warnings up
    mode: Callable[[argparse.Namespace], int] = options.mode
    try:
        return mode(options)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return 2


def _engine(options: argparse.Namespace) -> int:
    if options.plot:
        require_matplotlib()
    result = run_engine(
        EngineOptions(
            precisions=choose_precisions(options.precisions.split(",")),
            peers=choose_peers(options.peers),
            threads=options.threads,
            shape=_shape(options),
            bundle=options.bundle,
            texts=options.texts,
            num_texts=options.num_texts,
            rounds=options.rounds,
            seed=options.seed,
            price_per_hour=options.price_per_hour,
            by_length=options.plot is not None,
        )
    )
    _show_engine(result)
    _write(options.json, result.rows)
    if options.plot:
        draw(result.points, options.plot, f"Megatron-BERT {_size(options)}, {options.threads} threads")
        points = json.dumps(as_plain(result.points), indent=1)
        options.plot.with_suffix(".json").write_text(points + "\n", encoding="utf-8")
    return 0


def _show_engine(result: EngineResult) -> None:
    _say(table(result.rows))
    _say(ratios(result.rows))
    if result.left_out:
        _say(facts("left out", result.left_out))
    _say(facts("measured on", {**machine.describe(), **result.facts, **result.versions}))


def _job(options: argparse.Namespace) -> int:
    result = run_job(
        JobOptions(
            precision=_precision(options),
            threads=options.threads,
            actor_threads=options.actor_threads,
            shape=_shape(options),
            bundle=options.bundle,
            texts=options.texts,
            num_texts=options.num_texts,
            seconds=options.seconds,
            seed=options.seed,
            price_per_hour=options.price_per_hour,
        )
    )
    _say(table(result.rows))
    _say(facts("measured on", {**machine.describe(), **result.facts}))
    _write(options.json, result.rows)
    return 0


def _precision(options: argparse.Namespace) -> str:
    name = options.precision
    return choose_precisions([choose_precision("auto", on_gpu=False) if name == "auto" else name])[0]


def _serve(options: argparse.Namespace) -> int:
    result = run_serve(
        ServeOptions(
            precision=_precision(options),
            parts=choose_parts(options.parts),
            peers=choose_servers(options.peers),
            sizes=choose_sizes(options.sizes),
            seconds=options.seconds,
            overload_s=options.overload_seconds,
            rounds=options.rounds,
            connections=options.connections,
            threads=options.threads,
            shape=_shape(options),
            bundle=options.bundle,
            texts=options.texts,
            num_texts=options.num_texts,
            seed=options.seed,
        )
    )
    _say(serve_table(result.rows))
    _say(targets_table(result.targets))
    _say(facts("measured on", {**machine.describe(), **result.facts}))
    if options.json:
        write_serve_rows(options.json, result.rows)
    return 1 if result.num_failed else 0


def _gpu(options: argparse.Namespace) -> int:
    shape = Shape(options.layers or 24, options.hidden or 1024, options.heads or 16)
    result = run_gpu(GpuOptions(shape=shape, seconds=options.seconds, price_per_hour=options.price_per_hour))
    _say(table(result.rows))
    _say(facts("measured on", result.facts))
    _write(options.json, result.rows)
    return 0


def _memory(options: argparse.Namespace) -> int:
    samples = []
    for sample in stream(fetch(options.bundle), cast(Precision, options.precision), options.num_texts, options.threads):
        samples.append(sample)
        _say(f"{sample.num_texts:>12,} texts  {sample.rss_bytes / 1e6:>8,.0f} MB")
    _say(f"most after the first four tenths: {growth(samples):.3f} x; {'flat' if is_flat(samples) else 'IT GROWS'}")
    return 0 if is_flat(samples) else 1


def _peers(options: argparse.Namespace) -> int:
    _say(f"the peers stand in {install_peers()}")
    return 0


def _write(path: Path | None, rows: Sequence[Row]) -> None:
    if path:
        write_rows(path, rows)


def _shape(options: argparse.Namespace) -> Shape:
    default = DEFAULT_SHAPE
    return Shape(options.layers or default.layers, options.hidden or default.hidden, options.heads or default.heads)


def _size(options: argparse.Namespace) -> str:
    shape = _shape(options)
    return options.bundle or f"{shape.layers} x {shape.hidden}"


def _say(text: str) -> None:
    print(f"{text}\n" if "\n" in text else text, flush=True)  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.benchmark", description=(__doc__ or "").partition("\n")[0])
    modes = parser.add_subparsers(required=True, metavar="MODE")
    engine = _mode(modes, "engine", _engine, "token ids to probabilities in process, ours beside the peers")
    _add_model(engine)
    _add_texts(engine, num_texts=2000)
    engine.add_argument("--precisions", default=",".join(PRECISIONS), help="ours, with commas")
    engine.add_argument("--peers", default="all", help="all, none, or names with commas")
    engine.add_argument("--rounds", type=_at_least_1, default=5)
    engine.add_argument("--plot", type=Path, metavar="FILE.png", help="throughput against text length")
    job = _mode(modes, "job", _job, "Parquet to Parquet through Ray, beside the engine alone")
    _add_model(job)
    _add_texts(job, num_texts=None)
    job.add_argument("--precision", default="auto")
    job.add_argument("--actor-threads", type=_at_least_1, default=1)
    job.add_argument("--seconds", type=float, default=90.0, help="how long the job should take about")
    _add_serve(modes)
    gpu = _mode(modes, "gpu", _gpu, "parity, token budgets, replicas and lengths on a CUDA device")
    _add_model(gpu)
    gpu.add_argument("--seconds", type=float, default=420.0, help="begin nothing new after so long")
    memory = _mode(modes, "memory", _memory, "that memory stays flat over many texts")
    memory.add_argument("--bundle", default="starter")
    memory.add_argument("--precision", default="fp32", choices=PRECISIONS)
    memory.add_argument("--num-texts", type=_at_least_1, default=1_000_000)
    memory.add_argument("--threads", type=_at_least_1, default=machine.num_cores())
    _mode(modes, "peers", _peers, "make the peers' virtual environment")
    return parser


def _add_serve(modes: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    serve = _mode(modes, "serve", _serve, "the service on loopback under load, beside the engine and other servers")
    _add_model(serve, has_price=False)
    _add_texts(serve, num_texts=2000)
    serve.set_defaults(threads=1)  # the rest of the machine is for HTTP
    serve.add_argument("--parts", default="all", help="saturation, latency, overload, kill, peers, with commas; or all")
    serve.add_argument("--peers", default="all", help="infinity, ray-serve-pipeline, with commas; all, or none")
    serve.add_argument("--sizes", default="32,1", help="texts a request, with commas")
    serve.add_argument("--precision", default="auto")
    serve.add_argument("--seconds", type=float, default=20.0, help="of one measurement")
    serve.add_argument("--overload-seconds", type=float, default=60.0)
    serve.add_argument("--rounds", type=_at_least_1, default=3, help="of the engine and of the side-by-side")
    serve.add_argument("--connections", type=_at_least_1, default=64)


def _mode(
    modes: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    do: Callable[[argparse.Namespace], int],
    about: str,
) -> argparse.ArgumentParser:
    parser = modes.add_parser(name, help=about, description=about)
    parser.set_defaults(mode=do)
    return parser


def _add_model(parser: argparse.ArgumentParser, *, has_price: bool = True) -> None:
    parser.add_argument("--bundle", help="a bundle of your own in place of random weights")
    parser.add_argument("--layers", type=_at_least_1)
    parser.add_argument("--hidden", type=_at_least_1)
    parser.add_argument("--heads", type=_at_least_1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows")
    if has_price:
        parser.add_argument("--price-per-hour", type=float, help="of this machine, in any currency")


def _add_texts(parser: argparse.ArgumentParser, num_texts: int | None) -> None:
    parser.add_argument("--texts", type=Path, help="Parquet file or folder with a column text")
    parser.add_argument("--num-texts", type=_at_least_1, default=num_texts)
    parser.add_argument("--threads", type=_at_least_1, default=machine.num_cores())
    parser.add_argument("--seed", type=int, default=0)


def _at_least_1(value: str) -> int:
    if (number := int(value)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return number


if __name__ == "__main__":
    sys.exit(main())
