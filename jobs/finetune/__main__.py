"""`python -m jobs.finetune [CONFIG.yaml] input=my.csv output=out/mine`: a bundle that answers with labels of your own.

Without a YAML the defaults of `jobs/finetune.yaml` hold. Killed at any moment, the same command goes on where it
stopped. Exit codes: 0 the bundle is in its place; 1 it isn't: training broke off, or the bundle whose place it was to
take is clearly better; 2 something that was given can't be used; 130 interrupted. The log never holds a text.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cluster.config import load_config
from jobs.evaluate.summary import summary
from jobs.finetune.run import finetune
from jobs.finetune.settings import FinetuneSettings
from jobs.train.command import run_command

DEFAULTS = Path(__file__).parents[1] / "finetune.yaml"


def main() -> int:
    """Parse, run, report."""
    parser = argparse.ArgumentParser(prog="python -m jobs.finetune", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "settings", nargs="+", metavar="key=value", help="input=my.csv output=out/mine; a YAML may lead"
    )
    given: list[str] = parser.parse_args().settings
    config, overrides = (DEFAULTS, given) if "=" in given[0] else (Path(given[0]), given[1:])
    return run_command(lambda: _run(load_config(config, overrides, FinetuneSettings)))


def _run(settings: FinetuneSettings) -> int:
    finished = finetune(settings)
    if finished.evaluation is not None:
        print(summary(finished.evaluation))  # noqa: T201
    print(f"{finished.bundle} in {finished.bundle.folder}")  # noqa: T201
    return 0 if finished.is_in_place else 1


if __name__ == "__main__":
    sys.exit(main())
