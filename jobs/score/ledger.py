"""The bookkeeping of a set of scores: what fixes it, and what has been done.

`ledger.json` is written by a set's first run and read by all later ones. It binds the set to one input, and it fixes
what must not change between a run and its resume (unit bounds, token budget, threads), because the same batches on the
same kind of device are what makes a resumed run write the same bytes. What is done is not in it: the scores are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from cluster.store_errors import StoreNotFound
from jobs.reading.badfiles import BadFile
from jobs.reading.parts import UnitLimits
from jobs.score.layout import SetLayout

_LEDGER = "ledger.json"
_BAD_FILES = "bad_files.json"
_HALVED = "halved.json"

log = logging.getLogger("verbatim.score")


class OtherRunError(ValueError):
    """The output holds a set of scores that was made from another input."""


@dataclass(frozen=True)
class Execution:
    """How a set is computed: fixed by its first run."""

    unit_rows: int
    unit_text_bytes: int
    token_budget: int | None  # None until the run has a device to probe
    threads: int
    actors_per_gpu: int | None = None  # None until a run that leaves it to a probe; no score depends on it

    @property
    def limits(self) -> UnitLimits:
        """The bounds that cut spans into units."""
        return UnitLimits(rows=self.unit_rows, text_bytes=self.unit_text_bytes)


@dataclass(frozen=True)
class Ledger:
    """The contents of `ledger.json`."""

    input: str
    bundle: str
    fingerprint: str
    options: dict[str, Any]
    execution: Execution


def open_ledger(layout: SetLayout, wanted: Ledger, *, write: bool) -> Ledger:
    """Give the set's ledger: the one that its first run wrote, or `wanted`, which is then written if `write`.

    Raises
    ------
    OtherRunError : the set there was made from another input.
    """
    try:
        found = json.loads(layout.root.read_bytes(f"{layout.ledger}/{_LEDGER}"))
    except StoreNotFound:
        if write:
            _write(layout, wanted)
        return wanted
    ledger = Ledger(**{**found, "execution": Execution(**found["execution"])})
    if ledger.input != wanted.input:
        raise OtherRunError(
            f"output {layout.output} holds scores of another input: {ledger.input}, not {wanted.input}. "
            "Choose another output, or give the input that covers both"
        )
    if _differs(ledger.execution, wanted.execution):
        log.info("this set goes on as it was begun, with %s", ledger.execution)
    return ledger


def fix(layout: SetLayout, ledger: Ledger, execution: Execution) -> Ledger:
    """Write down what a probe found, which all runs of this set go on with."""
    ledger = replace(ledger, execution=execution)
    _write(layout, ledger)
    return ledger


def note_halved(layout: SetLayout, units: Mapping[str, int]) -> None:
    """Add units in which batches were halved for want of memory: their bytes may differ from another run's."""
    path = f"{layout.ledger}/{_HALVED}"
    try:
        known = json.loads(layout.root.read_bytes(path))
    except StoreNotFound:
        known = {}
    layout.root.put(path, json.dumps({**known, **units}, indent=1).encode())


def read_bad_spans(layout: SetLayout) -> dict[str, BadFile]:
    """Spans that an earlier run found unreadable and rejected whole, by the digest that names them."""
    try:
        found = json.loads(layout.root.read_bytes(f"{layout.ledger}/{_BAD_FILES}"))
    except StoreNotFound:
        return {}
    return {span: BadFile(**file) for span, file in found.items()}


def write_bad_spans(layout: SetLayout, spans: Mapping[str, BadFile]) -> None:
    """Remember them, so that a run that has nothing else to do doesn't read them again."""
    plain = {span: asdict(file) for span, file in sorted(spans.items())}
    layout.root.put(f"{layout.ledger}/{_BAD_FILES}", json.dumps(plain, indent=1, ensure_ascii=False).encode())


def _write(layout: SetLayout, ledger: Ledger) -> None:
    layout.root.put(f"{layout.ledger}/{_LEDGER}", json.dumps(asdict(ledger), indent=1, ensure_ascii=False).encode())


def _differs(found: Execution, wanted: Execution) -> bool:
    """Whether the set is computed otherwise than asked for; what was left to a probe is as asked for."""
    token_budget = wanted.token_budget or found.token_budget
    return found != replace(wanted, token_budget=token_budget, actors_per_gpu=found.actors_per_gpu)
