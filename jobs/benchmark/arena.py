"""Contenders side by side: each loaded and tuned in a process of its own, then run in turns.

A B C A B C …: whatever else the machine is doing hits all alike. Only one computes at a time; the machine's own limit
is measured in every round too. A contender that can't be loaded, or falls in a round, is left out with its reason.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.benchmark import machine
from jobs.benchmark.client import Worker, WorkerError
from jobs.benchmark.contender import Entry, Order
from jobs.benchmark.model import Model
from jobs.benchmark.roster import python_of
from jobs.benchmark.row import Runs
from jobs.benchmark.work import Work, thin

log = logging.getLogger("verbatim.benchmark")

_TUNING_SHARE, _LEAST_TUNING = 0.2, 64
_NUM_CALIBRATION = 64
_GROSS = {"fp32": 1e-3, "bf16": 0.05, "int8": 0.25, "fp8": 0.25}  # over this, another function


@dataclass
class Ready:
    """A contender that is loaded and tuned, and what its rounds gave."""

    entry: Entry
    worker: Worker
    work: Path
    rows: NDArray[np.int64]
    note: str
    setting: dict[str, Any] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Arena:
    """Where contenders meet: one model, one work, one number of threads."""

    model: Model
    work: Work
    folder: Path
    threads: int
    device: str = "cpu"
    ready: list[Ready] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    limits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def open(self, entries: Sequence[Entry]) -> Iterator[None]:
        """Load and tune; the processes live as long as the block."""
        pythons = {entry.name: python_of(entry) for entry in entries}
        machine.use_threads(self.threads)
        with ExitStack() as stack:
            for entry in entries:
                log_path = self.folder / f"{entry.name}.log"
                worker = stack.enter_context(Worker(entry, pythons[entry.name], self.threads, log_path))
                self._admit(entry, worker)
            yield

    def play(self, rounds: int) -> None:
        """Let every contender run once a round, after a run that only warms up and keeps its answers."""
        for ready in list(self.ready):
            self._turn(ready, self._probs_path(ready.entry))
            ready.runs.clear()
        for number in range(rounds):
            log.info("round %s of %s", number + 1, rounds)
            for precision in sorted({ready.entry.precision for ready in self.ready}):
                limit = machine.limit_of(self.model.architecture, precision, self.device)
                self.limits[precision].append(limit)
            for ready in list(self.ready):
                self._turn(ready)

    def results(self) -> list[Runs]:
        """What was seen, a contender each."""
        reference = self._reference()
        return [self._runs(ready, reference) for ready in self.ready]

    def speed_on(self, ready: Ready, work: Path) -> float:
        """Seconds of one run on other work, at the tuned setting."""
        answer = ready.worker.ask(do="run", work=str(work), setting=ready.setting)
        return float(answer["seconds"])

    def _admit(self, entry: Entry, worker: Worker) -> None:
        try:
            loaded = worker.ask(
                do="load",
                order=asdict(self._order(entry)),
                calibration=str(self._saved(_NUM_CALIBRATION)[0]),
                packages=list(entry.packages),
            )
            work, rows = self._saved(max(1, round(entry.thinned * len(self.work))))
            tuning = work if entry.is_ours else self._saved(self._num_tuning(entry))[0]
            tuned = worker.ask(do="tune", work=str(tuning))
        except WorkerError as error:
            self._leave_out(entry, error)
            return
        ready = Ready(entry, worker, work, rows, loaded["note"], tuned["setting"])
        self.versions.update(loaded["versions"])
        self.ready.append(ready)
        log.info("%s is ready, batch %s of %s", entry.name, tuned["setting"], tuned["trials"])

    def _turn(self, ready: Ready, probs: Path | None = None) -> None:
        try:
            answer = ready.worker.ask(do="run", work=str(ready.work), setting=ready.setting, probs=probs and str(probs))
        except WorkerError as error:
            self.ready.remove(ready)
            self._leave_out(ready.entry, error)
            return
        ready.runs.append(answer)

    def _leave_out(self, entry: Entry, error: WorkerError) -> None:
        self.left_out[entry.name] = str(error)
        log.warning("%s is left out: %s", entry.name, error)

    def _order(self, entry: Entry) -> Order:
        scratch = self.folder / entry.name
        scratch.mkdir()
        return Order(
            bundle=str(self.model.bundle.folder),
            hf_folder=str(self.model.hf_folder),
            scratch=str(scratch),
            threads=self.threads,
            precision=entry.precision,
            device=self.device,
            is_gated=not self.model.is_random,
        )

    def _num_tuning(self, entry: Entry) -> int:
        """A part is enough for peers; ours spreads whole batches over cores, so its budget depends on how many come."""
        return max(_LEAST_TUNING, round(_TUNING_SHARE * entry.thinned * len(self.work)))

    def _saved(self, num_texts: int) -> tuple[Path, NDArray[np.int64]]:
        """A folder with so many of the texts, and which they are."""
        rows = thin(self.work.lengths, num_texts)
        folder = self.folder / f"work-{len(rows)}"
        if not folder.exists():
            self.work.pick(rows).save(folder)
        return folder, rows

    def _probs_path(self, entry: Entry) -> Path:
        return self.folder / f"{entry.name}.npy"

    def _reference(self) -> NDArray[np.float32]:
        """Ours in the first precision that ran, for all texts; fp32 leads the list."""
        first = next((ready for ready in self.ready if ready.entry.is_ours), self.ready[0])
        whole: NDArray[np.float32] = np.load(self._probs_path(first.entry))
        return whole

    def _runs(self, ready: Ready, reference: NDArray[np.float32]) -> Runs:
        work = self.work.pick(ready.rows)
        probs: NDArray[np.float32] = np.load(self._probs_path(ready.entry))
        difference = float(np.abs(probs - reference[ready.rows]).max())
        return Runs(
            name=ready.entry.name,
            seconds=tuple(run["seconds"] for run in ready.runs),
            num_texts=len(work),
            num_tokens=work.num_tokens,
            slots=ready.runs[0]["slots"],
            peak_bytes=max(run["peak_bytes"] for run in ready.runs),
            flops=ready.runs[0]["flops"] or flops(self.model, work),
            note="; ".join(_notes(ready, len(work) < len(self.work), difference)),
            max_prob_diff=difference,
        )


def flops(model: Model, work: Work) -> int:
    """Operations that the real tokens take."""
    lengths = work.lengths.astype(np.int64)
    return model.architecture.flops(int(lengths.sum()), int((lengths**2).sum()))


def _notes(ready: Ready, is_thinned: bool, difference: float) -> Iterator[str]:
    if difference > _GROSS[ready.entry.precision]:
        yield "ITS ANSWERS DIFFER FROM OURS"
    if ready.note:
        yield ready.note
    yield f"batch {_batch(ready.setting)}"
    if is_thinned:
        yield f"{len(ready.rows)} texts of the same lengths"
    if ready.entry.precision == "int8":
        yield "held against the bf16 limit"


def _batch(setting: Mapping[str, Any]) -> str:
    return f"{setting['budget']}" + (f" in {setting['streams']} streams" if setting["streams"] > 1 else "")
