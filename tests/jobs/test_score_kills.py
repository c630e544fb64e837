"""Killed with SIGKILL at any moment and started again, a run leaves the same bytes as one that nobody touched.

Three kills by default, one of each kind; VERBATIM_KILLS=12 does twelve. Each happens when a random number of units
stand.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jobs.conftest import ROOT
from tests.jobs.test_score_job import write_lines

pytestmark = pytest.mark.ray

NUM_UNITS = 60
KILLS = int(os.environ.get("VERBATIM_KILLS", "3"))
VICTIMS = ("driver", "actor", "raylet")
ENDS_WITHIN_S = 180


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills") / "in"
    for number in range(6):
        rows = [{"id": f"{number}-{i}", "text": f"质量{'很' * (i % 40)}好 no {number} {i}"} for i in range(1000)]
        write_lines(folder / f"{number}.jsonl", rows)
    with (folder / "5.jsonl").open("a", encoding="utf-8") as file:
        file.write("broken\n" * 20)
    return folder


def start(corpus: Path, output: Path, tiny: Path, tmp_path: Path) -> subprocess.Popen[bytes]:
    """The job as a user starts it, with a local Ray of its own."""
    config = tmp_path / "score.yaml"
    config.write_text("columns: {id: id, text: text}\nprecision: fp32\nunit: {rows: 101}\ntoken_budget: 512\n")
    command = [sys.executable, "-m", "jobs.score", str(config), f"input={corpus}", f"output={output}", f"bundle={tiny}"]
    env = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
    with (tmp_path / "run.log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)


def finish(corpus: Path, output: Path, tiny: Path, tmp_path: Path) -> dict[str, bytes]:
    run = start(corpus, output, tiny, tmp_path)
    assert run.wait(timeout=ENDS_WITHIN_S) == 0, (tmp_path / "run.log").read_text()
    return written(output)


def written(output: Path) -> dict[str, bytes]:
    folders = (output / "scores", output / "rejected")
    return {str(path.relative_to(output)): path.read_bytes() for f in folders for path in f.rglob("*.parquet")}


@pytest.fixture(scope="module")
def expected(corpus: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("untouched")
    objects = finish(corpus, folder / "out", tiny, folder)
    assert len(objects) > NUM_UNITS
    return objects


def processes() -> Iterator[tuple[int, int, str]]:
    """(pid, parent, command line) of everything that runs."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                yield int(entry.name), parent, (entry / "cmdline").read_text().replace("\0", " ")
            except (OSError, ValueError):
                continue  # it ended while we looked


def find(victim: str, driver: int) -> int | None:
    """The process of this run's victim: only descendants of its driver are looked at."""
    if victim == "driver":
        return driver
    mark = {"actor": "ScoreUnit", "raylet": "/raylet/raylet "}[victim]
    family, grown = {driver}, True
    table = list(processes())
    while grown:
        more = {pid for pid, parent, _ in table if parent in family} - family
        family, grown = family | more, bool(more)
    return next((pid for pid, _, command in table if pid in family and mark in command), None)


def kill_when(num_units: int, victim: str, run: subprocess.Popen[bytes], output: Path) -> bool:
    """SIGKILL the victim as soon as so many units stand; False if the run was over before."""
    while run.poll() is None:
        if len(list((output / "scores").rglob("*.parquet"))) >= num_units and (pid := find(victim, run.pid)):
            os.kill(pid, signal.SIGKILL)
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("number", range(KILLS))
def test_a_killed_run_resumes_to_the_same_bytes(
    number: int, corpus: Path, tiny: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    victim = VICTIMS[number % len(VICTIMS)]
    at = random.Random(number).randrange(1, NUM_UNITS - 15)  # noqa: S311 - a moment, not a secret
    run = start(corpus, tmp_path / "out", tiny, tmp_path)
    assert kill_when(at, victim, run, tmp_path / "out"), (tmp_path / "run.log").read_text()
    code = run.wait(timeout=ENDS_WITHIN_S)
    before = written(tmp_path / "out")
    assert all(expected[name] == data for name, data in before.items()), "what a killed run wrote is whole and right"
    if victim == "driver":
        assert code == -signal.SIGKILL
        assert len(before) < len(expected)
        assert not (tmp_path / "out" / "manifest.json").exists()
    assert finish(corpus, tmp_path / "out", tiny, tmp_path) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_a_state_to_go_on_from(
    number: signal.Signals, corpus: Path, tiny: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background, and so by its children
    run = start(corpus, tmp_path / "out", tiny, tmp_path)
    while run.poll() is None and not list((tmp_path / "out" / "scores").rglob("*.parquet")):
        time.sleep(0.01)
    run.send_signal(number)
    assert run.wait(timeout=ENDS_WITHIN_S) == 130
    assert "give the same command to go on" in (tmp_path / "run.log").read_text()
    assert not list((tmp_path / "out").rglob("lease.json"))
    assert finish(corpus, tmp_path / "out", tiny, tmp_path) == expected
