"""`python -m jobs.train [CONFIG.yaml] data=s3://corpus output=out/pretrained`: pretrain a model on plain text.

Without a YAML the defaults of `jobs/train/pretrain.yaml` hold. Killed at any moment, the same command goes on where it
stopped. Exit codes: 0 the result is in its place; 1 training broke off; 2 something that was given can't be used; 130
interrupted. The log never holds a text.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cluster.config import load_config
from jobs.train.command import run_command
from jobs.train.pretrain_settings import PretrainSettings
from jobs.train.run import pretrain

USAGE = "usage: python -m jobs.train [CONFIG.yaml] [key=value ...]   (the least: data=FILES output=FOLDER)"
DEFAULTS = Path(__file__).parent / "pretrain.yaml"


def main(arguments: list[str]) -> int:
    """Run the job; see above for what it returns."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stderr.write(f"{USAGE}\n")
        return 0 if arguments else 2
    config, overrides = (DEFAULTS, arguments) if "=" in arguments[0] else (Path(arguments[0]), arguments[1:])
    return run_command(lambda: _run(load_config(config, overrides, PretrainSettings)))


def _run(settings: PretrainSettings) -> int:
    where = pretrain(settings)
    sys.stdout.write(f"{where}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
