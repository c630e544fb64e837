"""`python -m jobs.score CONFIG.yaml [key=value …] [--dry-run]`: score a feedback corpus, exactly once.

Exit codes: 0 every row is scored or rejected within the limit; 1 the run failed or isn't whole; 2 something that was
given can't be used, so nothing was written; 130 it was interrupted. The same command goes on where any run ended.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from types import FrameType

from ray.exceptions import RayError, RayTaskError

from cluster.config import load_config
from jobs.score.lease import LeaseError
from jobs.score.run import describe, run
from jobs.score.settings import ScoreSettings
from jobs.score.settle import IncompleteError
from jobs.score.summary import show_manifest, show_plan


def main() -> int:
    """Parse, run, report."""
    parser = argparse.ArgumentParser(prog="python -m jobs.score", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("config", help="YAML with at least input, output, bundle and columns")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="lay over the YAML: pool.max_size=4")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")
    arguments = parser.parse_intermixed_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("verbatim").setLevel(logging.INFO)  # other libraries speak from warnings up
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        settings = load_config(arguments.config, arguments.overrides, ScoreSettings)
        if arguments.dry_run:
            show_plan(describe(settings))
        else:
            show_manifest(run(settings))
    except KeyboardInterrupt:
        print("interrupted: what was written stays; give the same command to go on", file=sys.stderr)  # noqa: T201
        return 130
    except (IncompleteError, LeaseError, RayError) as error:
        return _fail(error, 1)
    except (ValueError, OSError) as error:
        return _fail(error, 2)
    return 0


def _fail(error: Exception, code: int) -> int:
    """Say what went wrong in the words of its cause: a worker's traceback helps nobody who gave a wrong path."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    print(f"{type(cause).__name__}: {cause}", file=sys.stderr)  # noqa: T201
    return code


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
