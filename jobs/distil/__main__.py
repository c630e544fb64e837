"""`python -m jobs.distil distil.yaml [key=value ...]`: a small bundle that has learnt from a large one.

Killed at any moment, the same command goes on where it stopped. Exit codes: 0 the bundle is in its place; 1 training
broke off; 2 something that was given can't be used; 130 interrupted. The log never holds a text.
"""

from __future__ import annotations

import argparse
import logging
import sys

from cluster.config import load_config
from jobs.distil.run import distil
from jobs.distil.settings import DistilSettings
from jobs.train.loop import TrainingError


def main() -> int:
    """Parse, run, report."""
    parser = argparse.ArgumentParser(prog="python -m jobs.distil", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("config", help="a YAML as jobs/distil/distil.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example output=out/small")
    given = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for name in ("verbatim", "jobs.train"):
        logging.getLogger(name).setLevel(logging.INFO)  # other libraries speak from warnings up
    try:
        bundle = distil(load_config(given.config, given.overrides, DistilSettings))
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)  # noqa: T201
        return 130
    except TrainingError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    except (ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print(f"{bundle} in {bundle.folder}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
