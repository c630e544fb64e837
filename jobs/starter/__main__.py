"""`python -m jobs.starter prepare`: labelled texts for the starter bundle's heads, which `jobs.finetune` then trains.

    python -m jobs.starter prepare [CONFIG.yaml] [key=value ...]   labelled Parquet files in the work folder
    python -m jobs.starter pack [CONFIG.yaml] to=FOLDER            the files of data and recipe for another machine
    python -m jobs.starter unpack from=FOLDER                      the inverse, in the working directory there

Exit codes: 0 done; 2 something that was given can't be used.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from cluster.config import load_config
from jobs.starter.pack import pack, unpack
from jobs.starter.prepare import prepare
from jobs.starter.settings import StarterSettings

DEFAULTS = Path(__file__).parent / "prepare.yaml"


def main() -> int:
    """Parse, run, report."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.starter", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=["prepare", "pack", "unpack"])
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of prepare.yaml; a YAML may lead")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("verbatim").setLevel(logging.INFO)
    try:
        _run(arguments.verb, arguments.settings)
    except (ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _run(verb: str, given: list[str]) -> None:
    folder = next((Path(one.partition("=")[2]) for one in given if one.startswith(("to=", "from="))), None)
    given = [one for one in given if not one.startswith(("to=", "from="))]
    if (folder is None) != (verb == "prepare"):
        raise ValueError(f"{verb}: to=FOLDER is pack's and from=FOLDER is unpack's, got {given}")
    if verb == "unpack":
        unpack(folder or Path(), Path())
        return
    config, overrides = (Path(given[0]), given[1:]) if given and "=" not in given[0] else (DEFAULTS, given)
    settings = load_config(config, overrides, StarterSettings)
    if folder is None:
        prepare(settings)
    else:
        pack(Path(settings.work), folder)


if __name__ == "__main__":
    sys.exit(main())
