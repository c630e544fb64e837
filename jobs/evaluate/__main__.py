"""`python -m jobs.evaluate CONFIG.yaml [key=value …]`: how good a bundle is on labelled sets, and in which precisions.

Exit codes: 0 measured, and every threshold and precision asked for is passed; 1 measured, and one isn't; 2 something
that was given can't be used, so nothing was written; 130 it was interrupted. The log never holds a text.
"""

from __future__ import annotations

import argparse
import logging
import sys

from cluster.config import load_config
from jobs.evaluate.run import evaluate
from jobs.evaluate.settings import EvaluateSettings
from jobs.evaluate.summary import summary
from jobs.evaluate.write import write_results


def main() -> int:
    """Parse, run, report."""
    parser = argparse.ArgumentParser(prog="python -m jobs.evaluate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("config", help="YAML with at least bundle, output and sets")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="lay over the YAML: sets.mine.input=my.csv")
    arguments = parser.parse_intermixed_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("verbatim").setLevel(logging.INFO)  # other libraries speak from warnings up
    try:
        settings = load_config(arguments.config, arguments.overrides, EvaluateSettings)
        evaluation, bundle = evaluate(settings)
        write_results(evaluation, bundle, settings.output)
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)  # noqa: T201
        return 130
    except (ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print(summary(evaluation))  # noqa: T201
    return 0 if evaluation.passed else 1


if __name__ == "__main__":
    sys.exit(main())
