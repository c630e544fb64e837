"""The process of one contender: `python -m jobs.benchmark.worker MODULE:CLASS`, JSON lines in and out.

    {"do": "load", "order": {…}, "calibration": FOLDER}           -> {"note": …, "versions": {…}}
    {"do": "tune", "work": FOLDER}                                -> {"setting": {…}, "seconds": …}
    {"do": "run", "work": FOLDER, "setting": {…}, "probs": FILE}  -> {"seconds": …, "slots": …, "flops": …,
                                                                      "peak_bytes": …}
    {"do": "end"}

Every answer may be {"error": …} instead; the process stays. What libraries print goes to standard error. Between runs
the process is idle, so that contenders can take turns. Peak memory is that of the process since its last tuning.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from jobs.benchmark.contender import Contender, Order, Setting
from jobs.benchmark.resident import forget_peak, peak_bytes
from jobs.benchmark.work import Work, load_work

_TRIALS = 2


class Session:
    """What a worker remembers between messages."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._contender: Contender | None = None
        self._works: dict[str, Work] = {}
        self._device = "cpu"

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Do what a message says; a fault is an answer too."""
        try:
            return {"load": self._load, "tune": self._tune, "run": self._run}[message["do"]](message)
        except Exception as error:  # whatever a peer's library raises is news, not our end
            return {"error": f"{type(error).__name__}: {error}"}

    def _load(self, message: dict[str, Any]) -> dict[str, Any]:
        module, _, name = self._target.partition(":")
        order = Order(**message["order"])
        calibration = load_work(Path(message["calibration"]))
        self._device = order.device
        self._contender = getattr(importlib.import_module(module), name)(order, calibration)
        assert self._contender is not None
        return {"note": self._contender.note, "versions": _versions(message["packages"])}

    def _tune(self, message: dict[str, Any]) -> dict[str, Any]:
        """Find the fastest setting; each is tried twice, because the first may have to load."""
        contender, work = self._ready(), self._work(message["work"])
        seconds = {
            setting: min(self._timed(work, setting)[0] for _ in range(_TRIALS)) for setting in contender.settings
        }
        best = min(seconds, key=lambda setting: seconds[setting])
        self._timed(work, best)
        forget_peak(self._device)
        return {"setting": asdict(best), "trials": {str(setting): took for setting, took in seconds.items()}}

    def _run(self, message: dict[str, Any]) -> dict[str, Any]:
        seconds, answer = self._timed(self._work(message["work"]), Setting(**message["setting"]))
        if message.get("probs"):
            np.save(message["probs"], answer.probs)
        return {
            "seconds": seconds,
            "slots": answer.slots,
            "flops": answer.flops,
            "peak_bytes": peak_bytes(self._device),
        }

    def _timed(self, work: Work, setting: Setting) -> tuple[float, Any]:
        contender = self._ready()
        began = time.perf_counter()
        answer = contender.score(work, setting)
        return time.perf_counter() - began, answer

    def _ready(self) -> Contender:
        if self._contender is None:
            raise ValueError("load comes first")
        return self._contender

    def _work(self, folder: str) -> Work:
        if folder not in self._works:
            self._works[folder] = load_work(Path(folder))
        return self._works[folder]


def _versions(packages: list[str]) -> dict[str, str]:
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _private_stdout() -> TextIO:
    """Standard output for answers alone: whatever else prints to it lands in standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def main() -> int:
    """Answer messages until the end of input."""
    answers = _private_stdout()
    session = Session(sys.argv[1])
    for line in sys.stdin:
        message = json.loads(line)
        if message["do"] == "end":
            break
        print(json.dumps(session.answer(message)), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
