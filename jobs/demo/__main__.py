"""`python -m jobs.demo [OUT_DIR]`: make a feedback corpus with planted facts, score it, and show what came out.

The corpus is the same at every call, so a second call finds its scores done. What is printed at the end is counted from
the scores, not from the facts: a person can hold one against the other.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from cluster.config import parse_config
from jobs.demo.corpus import write_corpus
from jobs.demo.overview import show_overview
from jobs.score.run import run
from jobs.score.settings import ScoreSettings
from jobs.score.summary import show_manifest

NUM_ROWS = 20_000
SEED = 7


def main() -> int:
    """Write, score, show."""
    parser = argparse.ArgumentParser(prog="python -m jobs.demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", nargs="?", type=Path, default=Path("out/demo"))
    parser.add_argument("--rows", type=int, default=NUM_ROWS)
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("verbatim").setLevel(logging.INFO)  # other libraries speak from warnings up
    out: Path = arguments.out
    write_corpus(out, arguments.rows, SEED)
    manifest = run(demo_settings(out))
    show_manifest(manifest)
    show_overview(out, manifest)
    return 0


def demo_settings(out: Path) -> ScoreSettings:
    """The demo's job: like any other, with the columns of the demo corpus passed through."""
    plain = {
        "input": str(out / "corpus"),
        "output": str(out / "scored"),
        "bundle": "starter",
        "columns": {
            "id": "id",
            "text": "text",
            "created_at": "created_at",
            "brand": "brand",
            "product": "product",
            "product_version": "product_version",
            "source": "source",
            "rating": "rating",
        },
        "unit": {"rows": 1000},
    }
    return parse_config(plain, ScoreSettings, "the demo")


if __name__ == "__main__":
    sys.exit(main())
