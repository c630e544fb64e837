"""`peers` mode: the peers' own virtual environment, `.venv-bench` in the checkout, from pinned versions.

infinity pins older releases of what the others need (numpy below 2, sentence-transformers below 4), so it is installed
without its dependencies: it runs on the newer ones.
"""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

from jobs.benchmark.client import ROOT
from jobs.benchmark.roster import BENCH_PYTHON

INFINITY = "infinity-emb==0.0.78"


def commands(python: Path = BENCH_PYTHON, root: Path = ROOT) -> list[list[str]]:
    """What is run in the new environment."""
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    pins = ["-c", str(root / "constraints.txt"), "-c", str(root / "constraints-bench.txt")]
    return [[*pip, *pins, "-e", f"{root}[bench]"], [*pip, "--no-deps", INFINITY]]


def install_peers() -> Path:
    """Make the environment or bring it up to date; gives its folder.

    Raises
    ------
    ValueError : pip couldn't install something; it has said what.
    """
    folder = BENCH_PYTHON.parents[1]
    if not BENCH_PYTHON.exists():
        venv.create(folder, with_pip=True)
    for command in commands():
        if subprocess.run(command, check=False).returncode:  # noqa: S603 - pip with our own pins
            raise ValueError(f"the peers couldn't be installed into {folder}: {' '.join(command)} failed")
    return folder
