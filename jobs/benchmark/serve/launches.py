"""The servers that are measured: ours as `python -m serving` starts it, and the peers as their users start them.

infinity: its own command line, whole, with its own batching and without its usage reports; its warm-up calls what
transformers 5 no longer has, so it is left out. The other: a Ray Serve application of a page (`plain/`). Peers may use
all cores and compute fp32.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from jobs.benchmark import machine
from jobs.benchmark.model import Model
from jobs.benchmark.roster import BENCH_PYTHON
from jobs.benchmark.serve.dialect import Dialect, LabelDialect, OurDialect
from jobs.benchmark.serve.options import ServeOptions
from jobs.benchmark.serve.server import Launch, free_port
from models.bundle import Bundle

NAME = "benchmark"  # of the bundle in our service
TOKEN_BUDGET = 4096  # the service's default, stated
_INFINITY_NEEDS = "infinity_emb, fastapi, uvicorn, orjson, prometheus_fastapi_instrumentator"
_INFINITY_BATCH = 32


def our_launch(bundle: Bundle, options: ServeOptions, folder: Path, *, num_replicas: int = 1) -> Launch:
    """Write a settings file, and name the command."""
    port = free_port()
    file = folder / f"serving-{port}.yaml"
    plain = settings(bundle, options, port, num_replicas)
    file.write_text(yaml.safe_dump(plain), encoding="utf-8")
    command = (sys.executable, "-m", "serving", str(file))
    return Launch("verbatim", command, port, OurDialect.path, OurDialect().body(["ready?"]))


def settings(bundle: Bundle, options: ServeOptions, port: int, num_replicas: int) -> dict[str, Any]:
    """The service's settings: one bundle, all else as it comes."""
    entry = {
        "name": NAME,
        "reference": str(bundle.folder),
        "num_replicas": num_replicas,
        "num_cpus": 1.0 if num_replicas == 1 else 0.25,  # during a rolling change there are twice as many
        "threads": options.threads,
        "precision": options.precision,
        "token_budget": TOKEN_BUDGET,
    }
    return {"bundles": [entry], "http": {"port": port}}


def peer_launch(name: str, model: Model) -> tuple[Launch, Dialect]:
    """A peer's server, and how to speak with it."""
    return {"infinity": _infinity, "ray-serve-pipeline": _pipeline}[name](model)


def require_peers(names: tuple[str, ...]) -> None:
    """See that what the peers need is there.

    Raises
    ------
    ValueError : infinity's environment is missing or lacks what its server imports.
    """
    if "infinity" not in names:
        return
    says = f"make it with `python -m jobs.benchmark peers` and give it {_INFINITY_NEEDS}, or leave infinity out"
    if not BENCH_PYTHON.exists():
        raise ValueError(f"infinity runs in {BENCH_PYTHON.parents[1]}, which isn't there: {says}")
    command = [str(BENCH_PYTHON), "-c", f"import {_INFINITY_NEEDS}"]
    if subprocess.run(command, check=False, capture_output=True).returncode:  # noqa: S603 - imports of ours
        raise ValueError(f"infinity's server can't be imported in {BENCH_PYTHON.parents[1]}: {says}")


def _infinity(model: Model) -> tuple[Launch, Dialect]:
    port, dialect = free_port(), LabelDialect(model.bundle, "/classify", "input", "data", model=NAME)
    command = [str(BENCH_PYTHON), "-m", "infinity_emb.cli", "v2", "--model-id", str(model.hf_folder)]
    command += ["--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    command += ["--engine", "torch", "--batch-size", str(_INFINITY_BATCH)]
    env = {"INFINITY_MODEL_WARMUP": "false", "INFINITY_ANONYMOUS_USAGE_STATS": "0", **_all_cores()}
    return Launch("infinity", tuple(command), port, dialect.path, dialect.body(["ready?"]), env), dialect


def _pipeline(model: Model) -> tuple[Launch, Dialect]:
    port, dialect = free_port(), LabelDialect(model.bundle, "/", "texts", "scores")
    command = (sys.executable, "-m", "jobs.benchmark.serve.plain", str(model.hf_folder), str(port))
    return Launch("ray-serve-pipeline", command, port, dialect.path, dialect.body(["ready?"]), _all_cores()), dialect


def _all_cores() -> dict[str, str]:
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(machine.num_cores()))}
