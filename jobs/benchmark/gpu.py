"""`gpu` mode: on a host with a CUDA device and no network, parity, then sweeps of token budget, replicas and length.

Parity: cuda in fp32 and bf16 against CPU fp32 on mixed lengths. Then a 24 x 1024 trunk of random weights in bf16 at
mean lengths 50 and 128: each token budget alone, and the best with several processes on the one device. MFU is given
against the device's own measured matrix products (`limit_share`) and against its nominal peak where the name is known.
Everything ends within `seconds` and a minute: what didn't fit is left out and said so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jobs.benchmark import machine
from jobs.benchmark.client import Worker
from jobs.benchmark.contender import Order
from jobs.benchmark.model import Model, Shape, random_model
from jobs.benchmark.roster import ours, python_of
from jobs.benchmark.row import Row, Runs, make_row
from jobs.benchmark.texts import lengths_at
from jobs.benchmark.work import Work, made_up

log = logging.getLogger("verbatim.benchmark")

NOMINAL_FLOPS = {"H100": 989e12, "H200": 989e12}  # bf16, dense, SXM; NVIDIA's data sheets
_ROUNDS = 3
_PARITY_LENGTHS = (1, 2, 3, 7, 8, 15, 31, 64, 100, 255)
_TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}


@dataclass(frozen=True)
class GpuOptions:
    """What to sweep. `num_tokens` a measurement: about two seconds of an H200."""

    shape: Shape
    seconds: float = 420.0
    budgets: tuple[int, ...] = (8192, 16384, 32768, 65536, 131072)
    replicas: tuple[int, ...] = (2, 3)
    means: tuple[int, ...] = (50, 128)
    num_tokens: int = 1_500_000
    price_per_hour: float | None = None


@dataclass(frozen=True)
class GpuResult:
    """A row a measurement, and the facts of parity and MFU."""

    rows: tuple[Row, ...]
    facts: Mapping[str, object]


@dataclass(frozen=True, eq=False)
class Mix:
    """Work of one mean length, and where it is saved."""

    mean: int
    work: Work
    folder: Path


@dataclass
class Bench:
    """What all measurements share."""

    model: Model
    folder: Path
    device: str
    options: GpuOptions
    ends_at: float
    limit: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)

    def is_over(self) -> bool:
        """Whether nothing new may begin."""
        return time.monotonic() > self.ends_at

    def leave_out(self, what: str) -> None:
        """Remember what there was no time for."""
        self.facts.setdefault("left out", []).append(what)
        log.warning("left out, time is up: %s", what)


def run_gpu(options: GpuOptions, device: str = "cuda") -> GpuResult:
    """Check parity, then sweep.

    Raises
    ------
    ValueError : there is no such device, or its answers aren't those of the CPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"gpu mode needs a CUDA device, but torch {torch.__version__} sees none on this machine")
    with TemporaryDirectory(prefix="verbatim-benchmark-") as name:
        model = random_model(Path(name), options.shape)
        bench = Bench(model, Path(name), device, options, time.monotonic() + options.seconds)
        bench.facts.update(_device_facts(device))
        check_parity(bench)
        bench.limit = machine.limit_of(model.architecture, "bf16", device)
        bench.facts["matmul limit bf16"] = f"{bench.limit / 1e12:,.2f} TFLOP/s"
        rows = tuple(make_row(runs, [bench.limit] * _ROUNDS, options.price_per_hour) for runs in sweep(bench))
        bench.facts.update(_best_facts(bench, rows))
    return GpuResult(rows, bench.facts)


def check_parity(bench: Bench) -> None:
    """Hold the device's probabilities against those of the CPU in fp32.

    Raises
    ------
    ValueError : a difference over the tolerance.
    """
    longest = bench.model.bundle.spec.max_length
    lengths = np.array([length for length in (*_PARITY_LENGTHS, longest) if length <= longest], np.int32)
    work = bench.folder / "parity"
    made_up(lengths, bench.model.architecture.vocab_size).save(work)
    expected = _probs(bench, "fp32", "cpu", work)
    for precision, tolerance in _TOLERANCE.items():
        difference = float(np.abs(_probs(bench, precision, bench.device, work) - expected).max())
        bench.facts[f"parity {precision}"] = f"{difference:.1e} (at most {tolerance:g})"
        if not difference <= tolerance:
            raise ValueError(f"parity {precision}: probabilities differ by {difference:.1e}, over {tolerance:g}")


def sweep(bench: Bench) -> Iterator[Runs]:
    """Each length at each budget with one process, then the best budget with several."""
    mixes = [_mix(bench, mean) for mean in bench.options.means]
    best: dict[Mix, int] = {}
    with _replicas(bench, "bf16", bench.device, 1) as workers:
        for mix in mixes:
            alone = []
            for budget in bench.options.budgets:
                if bench.is_over():
                    bench.leave_out(f"mean {mix.mean} from budget {budget} on")
                    break
                alone.append((budget, _measure(bench, workers, mix, budget)))
            yield from (runs for _, runs in alone)
            if alone:
                best[mix] = min(alone, key=lambda pair: median(pair[1].seconds))[0]
    for num in bench.options.replicas:
        if bench.is_over():
            bench.leave_out(f"with {num} processes or more")
            return
        with _replicas(bench, "bf16", bench.device, num) as workers:
            for mix, budget in best.items():
                yield _measure(bench, workers, mix, budget)


def lengths_of_mean(mean: float, num_texts: int, longest: int) -> NDArray[np.int32]:
    """Lengths distributed as in real feedback, stretched until they have this mean."""
    plain = lengths_at((np.arange(num_texts) + 0.5) / num_texts)
    low, high = 0.0, float(longest)
    for _ in range(50):
        stretch = (low + high) / 2
        lengths = np.clip(np.rint(plain * stretch), 3, longest)
        low, high = (stretch, high) if lengths.mean() < mean else (low, stretch)
    return np.random.default_rng(0).permutation(lengths).astype(np.int32)


def _mix(bench: Bench, mean: int) -> Mix:
    num_texts = max(1, bench.options.num_tokens // mean)
    lengths = lengths_of_mean(mean, num_texts, bench.model.bundle.spec.max_length)
    work, folder = made_up(lengths, bench.model.architecture.vocab_size), bench.folder / f"mean-{mean}"
    work.save(folder)
    return Mix(mean, work, folder)


def _measure(bench: Bench, workers: Sequence[Worker], mix: Mix, budget: int) -> Runs:
    """All replicas score the same work at once; the slowest ends the clock."""
    took, peaks = [], []
    answers: list[dict[str, Any]] = []
    for number in range(1 + _ROUNDS):
        answers = _ask_all(workers, do="run", work=str(mix.folder), setting={"budget": budget})
        if number:  # the first run warms up
            took.append(max(float(answer["seconds"]) for answer in answers))
            peaks.append(sum(int(answer["peak_bytes"]) for answer in answers))
    num, work = len(workers), mix.work
    log.info(
        "mean %s, budget %s, %s processes: %.0f tokens/s", mix.mean, budget, num, num * work.num_tokens / median(took)
    )
    return Runs(
        name=f"verbatim-bf16 mean {mix.mean} budget {budget} x{num}",
        seconds=tuple(took),
        num_texts=num * len(work),
        num_tokens=num * work.num_tokens,
        slots=num * work.num_tokens,
        peak_bytes=max(peaks),
        flops=sum(answer["flops"] for answer in answers),
    )


def _probs(bench: Bench, precision: str, device: str, work: Path) -> NDArray[np.float32]:
    target = bench.folder / f"probs-{precision}-{device}.npy"
    with _replicas(bench, precision, device, 1) as workers:
        _ask_all(workers, do="run", work=str(work), setting={"budget": 4096}, probs=str(target))
    probs: NDArray[np.float32] = np.load(target)
    return probs


@contextmanager
def _replicas(bench: Bench, precision: str, device: str, num: int) -> Iterator[list[Worker]]:
    """Processes that hold the model on the device."""
    entry, threads = ours(precision), max(1, machine.num_cores() // num)
    order = Order(
        bundle=str(bench.model.bundle.folder),
        hf_folder=str(bench.model.hf_folder),
        scratch=str(bench.folder),
        threads=threads,
        precision=precision,
        device=device,
        is_gated=False,
    )
    none = bench.folder / "none"
    if not none.exists():
        made_up(np.array([8], np.int32), bench.model.architecture.vocab_size).save(none)
    with ExitStack() as stack:
        logs = [bench.folder / f"{precision}-{device}-{index}.log" for index in range(num)]
        workers = [stack.enter_context(Worker(entry, python_of(entry), threads, path)) for path in logs]
        _ask_all(workers, do="load", order=asdict(order), calibration=str(none), packages=[])
        yield workers


def _ask_all(workers: Sequence[Worker], **message: Any) -> list[dict[str, Any]]:
    for worker in workers:
        worker.send(**message)
    return [worker.receive() for worker in workers]


def _device_facts(device: str) -> dict[str, object]:
    if device != "cuda":
        return {"device": device, **machine.describe()}
    return {"device": torch.cuda.get_device_name(), **machine.describe()}


def _best_facts(bench: Bench, rows: Sequence[Row]) -> dict[str, object]:
    """Best of each mean length, with MFU against the measured limit and the nominal peak."""
    nominal = next((peak for name, peak in NOMINAL_FLOPS.items() if name in str(bench.facts["device"])), None)
    found: dict[str, object] = {}
    for mean in bench.options.means:
        mine = [row for row in rows if f" mean {mean} " in row.name]
        if not mine:
            continue
        row = max(mine, key=lambda one: one.tokens_per_s)
        found[f"mean {mean}, best"] = f"{row.tokens_per_s:,.0f} tokens/s, {_mfu(bench, row, nominal)}"
    return found


def _mfu(bench: Bench, row: Row, nominal: float | None) -> str:
    measured = f"MFU {row.limit_share:.1%} of measured"
    if nominal is None:
        return measured
    assert row.limit_share is not None
    return f"{measured}, {row.limit_share * bench.limit / nominal:.1%} of nominal {nominal / 1e12:g} TFLOP/s"
