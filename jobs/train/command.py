"""What every command that trains does around its work: a log on stderr, memory, errors in a line, exit codes.

Exit codes: what the work gives; 1 training broke off; 2 something that was given can't be used; 130 interrupted, and
the same command goes on. The log never holds a text.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from jobs.train.heap import keep_memory
from jobs.train.loop import TrainingError


def run_command(work: Callable[[], int]) -> int:
    """Do the work and give the exit code."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("verbatim").setLevel(logging.INFO)  # other libraries speak from warnings up
    keep_memory()
    try:
        return work()
    except KeyboardInterrupt:
        return _say("interrupted: the same command goes on from the last checkpoint", 130)
    except TrainingError as error:
        return _say(str(error), 1)
    except (ValueError, OSError) as error:
        return _say(f"{type(error).__name__}: {error}", 2)


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"{message}\n")
    return code
