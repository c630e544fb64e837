"""`python -m jobs.train [CONFIG.yaml] data=s3://corpus output=out/pretrained`: pretrain a model on plain text.

Without a YAML the defaults of `jobs/train/pretrain.yaml` hold. Killed at any moment, the same command goes on where it
stopped. A YAML with a section `finetune` is a recipe of the shipped bundle (jobs/train/starter.yaml). Exit codes: 0 the
result is in its place; 1 training broke off; 2 something that was given can't be used; 130 interrupted. The log never
holds a text.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from cluster.config import load_config
from jobs.train.loop import TrainingError
from jobs.train.pretrain_settings import PretrainSettings
from jobs.train.run import pretrain
from jobs.train.settings import TrainSettings
from jobs.train.stages import train

USAGE = "usage: python -m jobs.train [CONFIG.yaml] [key=value ...]   (the least: data=FILES output=FOLDER)"
DEFAULTS = Path(__file__).parent / "pretrain.yaml"


def main(arguments: list[str]) -> int:
    """Run the job; see above for what it returns."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stderr.write(f"{USAGE}\n")
        return 0 if arguments else 2
    config, overrides = (DEFAULTS, arguments) if "=" in arguments[0] else (Path(arguments[0]), arguments[1:])
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for name in ("verbatim", "jobs.train"):
        logging.getLogger(name).setLevel(logging.INFO)  # other libraries speak from warnings up
    try:
        return _run(config, overrides)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: the same command goes on from the last checkpoint\n")
        return 130
    except TrainingError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _run(config: Path, overrides: list[str]) -> int:
    if _is_starter(config):
        train(load_config(config, overrides, TrainSettings), str(config))
        return 0
    where = pretrain(load_config(config, overrides, PretrainSettings))
    sys.stdout.write(f"{where}\n")
    return 0


def _is_starter(config: Path) -> bool:
    return config.is_file() and any(line.startswith("finetune:") for line in config.read_text("utf-8").splitlines())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
