"""A running Ray of one node on loopback, and short ways to run the scoring job on it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pytest
import torch

from cluster.config import parse_config
from jobs.score.run import run
from jobs.score.settings import ScoreSettings
from tests.tiny import tiny_bundle

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle with random weights."""
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny").folder


@pytest.fixture(scope="session", autouse=True)
def ray_mode() -> None:
    """The Ray of these tests asks for no token; what starts a Ray of its own takes this away again."""
    os.environ["RAY_AUTH_MODE"] = "disabled"


@pytest.fixture(scope="session")
def ray_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Ray that was started as an operator would; it ends with the tests."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}"]
    command += ["--node-ip-address=127.0.0.1", "--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats"]
    command += ["--object-store-memory=500000000"]
    with (tmp_path_factory.mktemp("ray") / "head.log").open("w") as log:
        head = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for_port(head, port)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(head.pid, signal.SIGKILL)  # a gentle end takes Ray half a minute
        head.wait(timeout=60)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny products are slower over several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def wait_for_port(process: subprocess.Popen[bytes], port: int, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError(f"nothing listens on port {port}")


Score = Callable[..., dict[str, Any]]


@pytest.fixture
def score(ray_address: str, tiny: Path, tmp_path: Path) -> Score:
    """Run the job in this process: `score(input, key=value)`; the output is `tmp_path / "out"` if not given."""

    def call(input: Path | str, **settings: Any) -> dict[str, Any]:
        plain = {
            "input": str(input),
            "output": str(tmp_path / "out"),
            "bundle": str(tiny),
            "columns": {"id": "id", "text": "text"},
            "precision": "fp32",
            "unit": {"rows": 50},
            "token_budget": 4096,
            "ray_address": ray_address,
        }
        return run(parse_config({**plain, **settings}, ScoreSettings, "test"))

    return call


def read_scores(manifest: dict[str, Any]) -> pa.Table:
    """All scores of a run, sorted by id."""
    folder = Path(manifest["output"]) / manifest["scores"]
    return pyarrow.dataset.dataset(folder, format="parquet").to_table().sort_by("id")


def read_rejected(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """All rejected rows of a run."""
    folder = Path(manifest["output"]) / manifest["rejected"]
    if not folder.exists():
        return []
    rows = pyarrow.dataset.dataset(folder, format="parquet").to_table().to_pylist()
    return sorted(rows, key=lambda row: (row["file"], row["row"] or 0))


def object_bytes(manifest: dict[str, Any]) -> dict[str, bytes]:
    """Every object of the set of scores and of the rejected rows, by name."""
    root = Path(manifest["output"])
    folders = (root / manifest["scores"], root / manifest["rejected"])
    return {str(path.relative_to(root)): path.read_bytes() for folder in folders for path in folder.rglob("*.parquet")}
