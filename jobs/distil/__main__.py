"""`python -m jobs.distil distil.yaml [key=value ...]`: a small bundle that has learnt from a large one.

Killed at any moment, the same command goes on where it stopped. Exit codes: 0 the bundle is in its place; 1 training
broke off; 2 something that was given can't be used; 130 interrupted. The log never holds a text.
"""

from __future__ import annotations

import argparse
import sys

from cluster.config import load_config
from jobs.distil.run import distil
from jobs.distil.settings import DistilSettings
from jobs.train.command import run_command


def main() -> int:
    """Parse, run, report."""
    parser = argparse.ArgumentParser(prog="python -m jobs.distil", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("config", help="a YAML as jobs/distil/distil.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example output=out/small")
    given = parser.parse_args()
    return run_command(lambda: _run(load_config(given.config, given.overrides, DistilSettings)))


def _run(settings: DistilSettings) -> int:
    bundle = distil(settings)
    print(f"{bundle} in {bundle.folder}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
