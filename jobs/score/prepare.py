"""Before a row is read: everything that can be found wrong is found here, and nothing is started.

Bundle, mapping, input and output are checked against each other, and the set of scores gets its name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from fsspec.utils import glob_translate

from cluster.stores import open_store
from jobs.reading.badfiles import BadFile
from jobs.reading.listing import list_input
from jobs.reading.plan import plan_spans
from jobs.reading.spans import Span
from jobs.score.layout import SetLayout, fingerprint
from jobs.score.ledger import Execution, Ledger
from jobs.score.settings import ScoreSettings
from models.bundle import Bundle
from models.fetch import fetch, shipped_names, split_reference
from models.gates import require
from models.precision import Precision, choose_precision


@dataclass(frozen=True)
class Prepared:
    """What is known of a run before it looks at what is done."""

    settings: ScoreSettings
    bundle: Bundle
    reference: str
    precision: Precision
    layout: SetLayout
    wanted: Ledger
    spans: tuple[Span, ...]
    bad_files: tuple[BadFile, ...]
    num_ignored: int


def prepare(settings: ScoreSettings) -> Prepared:
    """Check everything that doesn't need the cluster.

    Raises
    ------
    ValueError, OSError : what is wrong with bundle, columns, input or output, and what would be right.
    """
    settings = _absolute(settings)
    whole = fetch(settings.bundle)
    bundle = whole.read_by(settings.heads)
    _require_free_names(settings, bundle)
    _require_apart(settings)
    listing = list_input(settings.input, settings.format)
    planned = plan_spans(listing.files, settings.reading_columns(), bad_files=settings.bad_files)
    precision = choose_precision(settings.precision, on_gpu=bool(settings.pool.num_gpus))
    require(bundle, precision)
    options: dict[str, object] = {
        "bundle": str(bundle),
        "precision": precision,
        "columns": asdict(settings.reading_columns()),
        "format": settings.format,
    }
    if bundle.spec.heads != whole.spec.heads:
        options["heads"] = [head.name for head in bundle.spec.heads]
    layout = SetLayout(settings.output, str(bundle), fingerprint(options))
    execution = Execution(
        unit_rows=settings.unit.rows,
        unit_text_bytes=int(settings.unit.text_mib * 2**20),
        token_budget=settings.token_budget,
        threads=settings.pool.threads,
    )
    return Prepared(
        settings=settings,
        bundle=bundle,
        reference=f"{split_reference(settings.bundle)[0]}@{bundle.digest}",
        precision=precision,
        layout=layout,
        wanted=Ledger(settings.input, str(bundle), layout.fingerprint, options, execution),
        spans=planned.spans,
        bad_files=planned.bad_files,
        num_ignored=listing.num_ignored,
    )


def _absolute(settings: ScoreSettings) -> ScoreSettings:
    """Settings whose places mean the same in every process; one place has one spelling, so that a set knows its input.

    A submitted job runs in a temporary copy of its working directory: what it wrote below that would be lost, and what
    it read there would be another input the next time.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        for key, place in (("input", settings.input), ("output", settings.output)):
            if "://" not in place and not Path(place).is_absolute():
                raise ValueError(f"{key} {place!r} of a submitted job must be a URI or an absolute path")
    where, digest = split_reference(settings.bundle)
    bundle = str(Path(where).resolve()) if Path(where).is_dir() and where not in shipped_names() else where
    return settings.model_copy(
        update={
            "input": open_store(settings.input).root,
            "output": open_store(settings.output).root,
            "bundle": f"{bundle}@{digest}" if digest else bundle,
        }
    )


def _require_free_names(settings: ScoreSettings, bundle: Bundle) -> None:
    given = {name for head in bundle.spec.heads for name in head.schema.names}
    taken = sorted(given & settings.columns.keys())
    if taken:
        raise ValueError(f"columns {taken} are what bundle {bundle} itself gives; pass yours through under other names")


def _require_apart(settings: ScoreSettings) -> None:
    """Scores inside the input would be read as input by the next run."""
    taken = re.compile(glob_translate(settings.input.rstrip("/")))
    if any(taken.match(place) for place in (settings.output, *_parents(settings.output))):
        raise ValueError(f"output {settings.output} lies inside input {settings.input}: choose a place outside it")


def _parents(place: str) -> Iterator[str]:
    """Folders that a path or URI lies in, from the nearest up."""
    while "/" in place.partition("://")[2] or ("://" not in place and "/" in place):
        place = place.rpartition("/")[0]
        yield place
