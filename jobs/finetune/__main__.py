"""`python -m jobs.finetune [CONFIG.yaml] input=my.csv output=out/mine`: a bundle that answers with labels of your own.

Without a YAML the defaults of `jobs/finetune.yaml` hold. Killed at any moment, the same command goes on where it
stopped. Exit codes: 0 the bundle is in its place; 1 it isn't: training broke off, or the bundle whose place it was to
take is clearly better; 2 something that was given can't be used; 130 interrupted. The log never holds a text.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from cluster.config import load_config
from jobs.evaluate.summary import summary
from jobs.finetune.run import finetune
from jobs.finetune.settings import FinetuneSettings
from jobs.train.loop import TrainingError

DEFAULTS = Path(__file__).parents[1] / "finetune.yaml"


def main() -> int:
    """Parse, run, report."""
    parser = argparse.ArgumentParser(prog="python -m jobs.finetune", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "settings", nargs="+", metavar="key=value", help="input=my.csv output=out/mine; a YAML may lead"
    )
    given: list[str] = parser.parse_args().settings
    config, overrides = (DEFAULTS, given) if "=" in given[0] else (Path(given[0]), given[1:])
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for name in ("verbatim", "jobs.train"):
        logging.getLogger(name).setLevel(logging.INFO)  # other libraries speak from warnings up
    try:
        finished = finetune(load_config(config, overrides, FinetuneSettings))
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)  # noqa: T201
        return 130
    except TrainingError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    except (ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    if finished.evaluation is not None:
        print(summary(finished.evaluation))  # noqa: T201
    print(f"{finished.bundle} in {finished.bundle.folder}")  # noqa: T201
    return 0 if finished.is_in_place else 1


if __name__ == "__main__":
    sys.exit(main())
