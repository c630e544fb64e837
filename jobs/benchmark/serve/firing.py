"""The measuring process's side of the load generator: start it, do something meanwhile, read what came of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import mkdtemp

from jobs.benchmark.client import ROOT
from jobs.benchmark.serve.errors import GeneratorError
from jobs.benchmark.serve.load import FIRED_FILE, LOAD_FILE, Fired, Load, read_fired

_LOOK_S = 0.25
_START_S = 30.0


def fire(load: Load, folder: Path, meanwhile: Callable[[], bool] = lambda: False) -> Fired:
    """Run the generator in a process of its own; `meanwhile` is called every quarter of a second; True: enough.

    Raises
    ------
    GeneratorError : it failed, or didn't end in its time.
    """
    place, is_told = Path(mkdtemp(prefix="load-", dir=folder)), False
    (place / LOAD_FILE).write_text(json.dumps(asdict(load)), encoding="utf-8")
    deadline = time.monotonic() + load.seconds + load.timeout_s + _START_S
    with (place / "log").open("w") as log:
        command = [sys.executable, "-m", "jobs.benchmark.serve.load", str(place)]
        generator = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)  # noqa: S603 - our own module
    try:
        while generator.poll() is None and time.monotonic() < deadline:
            if meanwhile() and not is_told:
                generator.terminate()
                is_told = True
            time.sleep(_LOOK_S)
    finally:
        generator.kill()
        generator.wait()
    if not (place / FIRED_FILE).exists():
        raise GeneratorError(
            f"the load generator ended with code {generator.returncode}: {(place / 'log').read_text()}"
        )
    return read_fired(place)
