"""Train a bundle: `python -m jobs.train CONFIG.yaml [key=value ...]`, for example jobs/train/starter.yaml.

Killed at any moment, the same command goes on where it stopped. The log never holds a text.
"""

from __future__ import annotations

import logging
import sys

from cluster.config import load_config
from jobs.train.loop import TrainingError
from jobs.train.settings import TrainSettings
from jobs.train.stages import train

USAGE = "usage: python -m jobs.train CONFIG.yaml [key=value ...]"


def main(arguments: list[str]) -> int:
    """Run the job; 0 if the bundle stands, 1 if training broke off, 2 if settings or data can't be used."""
    if not arguments:
        sys.stderr.write(f"{USAGE}\n")
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        train(load_config(arguments[0], arguments[1:], TrainSettings), arguments[0])
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except TrainingError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
