"""`serve` mode: the service on loopback beside the engine, then its peers; everything started here ends here.

One server is up at a time, but for the side-by-side, and none while the engine is measured. Given up: another machine
for the load generator; on few cores it takes its share of them, which every row states.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from jobs.benchmark.engine import make_model
from jobs.benchmark.model import Model, Shape, random_bundle
from jobs.benchmark.serve import kill, latency, overload, saturation
from jobs.benchmark.serve.bench import Bench, log
from jobs.benchmark.serve.engine import Engine
from jobs.benchmark.serve.errors import PartError
from jobs.benchmark.serve.launches import our_launch, require_peers
from jobs.benchmark.serve.options import ServeOptions
from jobs.benchmark.serve.row import ServeRow, Target
from jobs.benchmark.serve.server import started
from jobs.benchmark.serve.sides import side_by_side
from jobs.benchmark.serve.truth import TOLERANCES, Truth, score
from jobs.benchmark.texts import Cutter, TextsError, gather
from jobs.benchmark.work import Work
from models.bundle import Bundle
from models.clean import clean
from models.gates import require


@dataclass(frozen=True)
class ServeResult:
    """Rows, targets, what belongs beside them, and how many parts failed."""

    rows: tuple[ServeRow, ...]
    targets: tuple[Target, ...]
    facts: Mapping[str, object]
    num_failed: int


def run_serve(options: ServeOptions) -> ServeResult:
    """Measure the parts asked for.

    Raises
    ------
    ValueError : texts, bundle, precision or the peers' environment can't be used.
    """
    if "peers" in options.parts:
        require_peers(options.peers)
    with _interruptible(), TemporaryDirectory(prefix="verbatim-benchmark-") as name:
        folder = Path(name)
        model = make_model(folder, options.bundle, options.shape, options.seed)
        require(model.bundle, options.precision)
        work, origin = _texts(options, model)
        scores = score(model.bundle, work.texts, options.precision)
        truth = Truth({str(model.bundle): scores}, TOLERANCES[options.precision])
        bench = Bench(options, model, work.texts, truth, folder)
        bench.facts |= {"texts": origin, "tokens a text": f"{work.num_tokens / len(work):.1f}"}
        bench.facts["replica"] = f"1 of {options.threads} threads, {options.precision}"
        attempts = [partial(_alone, bench, work), partial(_killed, bench), partial(_beside, bench)]
        num_failed = sum(not _attempt(bench, do) for do in attempts)
    return ServeResult(tuple(bench.rows), tuple(bench.targets), bench.facts, num_failed)


def _attempt(bench: Bench, do: Callable[[], None]) -> bool:
    """Go on without what fails, so that what was measured isn't lost."""
    try:
        do()
    except PartError as error:
        log.error("failed: %s", error)
        bench.facts[f"failed: {type(error).__name__}"] = error
        return False
    return True


def _alone(bench: Bench, work: Work) -> None:
    """Saturation, latency and overload of one service, the engine before and after it."""
    parts = bench.options.parts
    if not {"saturation", "latency"} & set(parts):
        if "overload" in parts:
            _one_server(bench)
        return
    engine = Engine(bench.model, work, bench.folder, bench.options)
    with engine.open():
        engine.play()
        _one_server(bench)
        engine.play()
        saturation.compare(bench, engine)
        latency.judge(bench, engine)


def _one_server(bench: Bench) -> None:
    """The capacity is measured in any case: latency and overload load in its terms."""
    with started(our_launch(bench.model.bundle, bench.options, bench.folder), bench.folder) as server:
        saturation.saturate(bench, server)
        if "latency" in bench.options.parts:
            latency.at_half_load(bench, server)
        if "overload" in bench.options.parts:
            overload.overload(bench, server)


def _killed(bench: Bench) -> None:
    """A service of two replicas loses one, then changes its bundle."""
    if "kill" not in bench.options.parts:
        return
    other = _another(bench)
    bench.truth.rows[str(other)] = score(other, bench.texts, kill.other_precision(bench.options))
    launch = our_launch(bench.model.bundle, bench.options, bench.folder, num_replicas=kill.REPLICAS)
    with started(launch, bench.folder) as server:
        kill.kill_one(bench, server)
        kill.change(bench, server, other)


def _beside(bench: Bench) -> None:
    if "peers" in bench.options.parts:
        side_by_side(bench)


def _another(bench: Bench) -> Bundle:
    """A bundle of the same size with other weights."""
    arch = bench.model.architecture
    shape = Shape(arch.num_hidden_layers, arch.hidden_size, arch.num_attention_heads, arch.max_position_embeddings)
    return random_bundle(bench.folder / "other", shape, bench.options.seed + 1)


def _texts(options: ServeOptions, model: Model) -> tuple[Work, str]:
    """Texts as the service sees them: clean, and none of which nothing remains."""
    work, origin = gather(options.texts, model.bundle, options.num_texts, options.seed)
    kept = [text for text in map(clean, work.texts) if text]
    if len(kept) < max(options.sizes):
        raise TextsError(f"texts: {len(kept)} remain when cleaned, one request takes {max(options.sizes)}")
    return Cutter(model.bundle).work(kept), origin


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the mode as Ctrl-C does, so that no server outlives it."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
