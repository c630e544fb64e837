"""Closing the books of a run: the set is whole, nothing stale stands in it, and the manifest says what it is made of.

The manifest's counts are read off the units as they lie in the store, not remembered. It is written last; a set
without one isn't complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from cluster.store_errors import StoreNotFound
from jobs.reading.badfiles import BadFile
from jobs.reading.listing import list_input
from jobs.reading.rejects import REJECTED_SCHEMA, Reason
from jobs.revision import code_revision
from jobs.score.ids import count_repeated
from jobs.score.layout import MANIFEST, SetLayout
from jobs.score.lease import Lease
from jobs.score.ledger import OtherRunError
from jobs.score.plan import Plan, sum_rows
from jobs.score.prepare import Prepared
from jobs.score.progress import Effort
from jobs.score.write import Counts, read_counts, to_parquet

BAD_FILES_OBJECT = "bad-files.parquet"
_LAST_RUN = "last_run.json"
_THREADS = 32  # ends of files are waited for, not computed


class IncompleteError(RuntimeError):
    """Work was begun and the set isn't whole, or more rows were rejected than the settings allow: no manifest."""


def settle(job: Prepared, plan: Plan, effort: Effort, lease: Lease) -> dict[str, Any]:
    """Check, tidy and describe the set; `plan` is what was found after the scoring.

    Raises
    ------
    LeaseError : another run took the set over.
    IncompleteError : units are missing, the input has changed, counts don't balance, or too many rows were rejected.
    """
    if plan.tasks:
        raise IncompleteError(f"{len(plan.tasks)} spans aren't whole, the first in {plan.tasks[0].span.file.path}")
    _require_same_input(job)
    counts = count_rows(job.layout, plan.valid)
    _require_balance(plan, counts)
    lease.confirm()
    _move_superseded(job.layout, set(plan.valid))
    bad_files = bad_files_of(job, plan)
    _keep_bad_files(job.layout, bad_files)
    facts = {
        **_identity(job),
        **asdict(counts),
        "units": len(plan.valid),
        "files_rejected": len(bad_files),
        "bad_files": [asdict(file) for file in bad_files],
        "files_ignored": job.num_ignored,
        "units_superseded": len(plan.superseded),
        "repeated_ids": count_repeated(job.layout, plan.valid, counts.rows_scored) if job.settings.check_ids else None,
        **(_speed(effort, job.settings.price_per_hour) if effort.units else _last_speed(job.layout)),
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    job.layout.root.put(f"{job.layout.ledger}/{_LAST_RUN}", _to_json(facts))
    require_few_rejected(facts, job.settings.max_rejected_share)
    lease.confirm()
    job.layout.root.put(MANIFEST, _to_json(facts))
    return facts


def require_few_rejected(facts: Mapping[str, Any], most: float) -> None:
    """Raise `IncompleteError` if more than a share `most` of the rows was rejected."""
    if facts["rows_rejected"] > most * facts["rows_in"]:
        raise IncompleteError(
            f"{facts['rows_rejected']:,} of {facts['rows_in']:,} rows were rejected, over max_rejected_share {most:g}: "
            "see rejected/ for the reasons, and raise the limit to accept them"
        )


def read_manifest(layout: SetLayout) -> dict[str, Any] | None:
    """Give the output's manifest, of whichever set.

    Raises
    ------
    OtherRunError : what lies there isn't a manifest of this program, so the output isn't ours to write to.
    """
    try:
        manifest = json.loads(layout.root.read_bytes(MANIFEST))
    except StoreNotFound:
        return None
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict) or not {"scores", "fingerprint", "bad_files", "units"} <= manifest.keys():
        raise OtherRunError(f"{layout.root.uri(MANIFEST)} isn't this program's manifest: choose another output")
    return manifest


def describes(manifest: Mapping[str, Any], job: Prepared, plan: Plan) -> bool:
    """Whether the manifest is about this set as the plan finds it, with nothing left to do."""
    bad_files = [asdict(file) for file in bad_files_of(job, plan)]
    is_current = manifest["scores"] == job.layout.scores and manifest["bad_files"] == bad_files
    return is_current and not plan.tasks and not plan.superseded


def bad_files_of(job: Prepared, plan: Plan) -> list[BadFile]:
    """Files that are rejected whole, by planning or on the way."""
    return sorted({*job.bad_files, *plan.bad.values()}, key=lambda file: file.path)


def count_rows(layout: SetLayout, units: Sequence[str]) -> Counts:
    """Sum of the counts that the units carry."""
    root = layout.root
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda unit: read_counts(root, f"{layout.scores}/{unit}.parquet"), units)
        return sum(found, Counts(0, 0, 0, 0, 0))


def _require_same_input(job: Prepared) -> None:
    """A file that was replaced while it was read has given units of neither the old nor the new."""
    planned = {(span.file.path, span.file.size_bytes, span.file.etag) for span in job.spans}
    now = {(f.path, f.size_bytes, f.etag) for f in list_input(job.settings.input, job.settings.format).files}
    if changed := sorted(planned - now):
        raise IncompleteError(f"{len(changed)} input files changed during the run, first {changed[0][0]}: run it again")


def _require_balance(plan: Plan, counts: Counts) -> None:
    """Rows in = scored + rejected, and as many came in as the files themselves say they hold."""
    expected = sum_rows(plan.finished)
    if counts.rows_in != counts.rows_scored + counts.rows_rejected or expected not in (None, counts.rows_in):
        raise IncompleteError(f"the books don't balance: {counts}, and the input's files hold {expected} rows")


def _move_superseded(layout: SetLayout, valid: set[str]) -> None:
    """Take outputs of changed or vanished input out of the set; they are kept beside it.

    Scores first: what has none isn't done, so a kill in between leaves nothing that would pass for whole.
    """
    root = layout.root
    for folder in (layout.scores, layout.rejected):
        for info in root.list(folder):
            name = PurePosixPath(info.path).name
            if name.removesuffix(".parquet") not in valid and name != BAD_FILES_OBJECT:
                root.put(f"superseded/{info.path}", root.read_bytes(info.path))
                root.delete(info.path)


def _keep_bad_files(layout: SetLayout, files: Sequence[BadFile]) -> None:
    path = f"{layout.rejected}/{BAD_FILES_OBJECT}"
    if not files:
        layout.root.delete(path)
        return
    rows = [{"file": file.path, "reason": str(Reason.BAD_FILE), "detail": file.cause} for file in files]
    layout.root.put(path, to_parquet(pa.Table.from_pylist(rows, REJECTED_SCHEMA), {}))


def _identity(job: Prepared) -> dict[str, Any]:
    return {
        "input": job.settings.input,
        "output": job.settings.output,
        "scores": job.layout.scores,
        "rejected": job.layout.rejected,
        "bundle": str(job.bundle),
        "fingerprint": job.layout.fingerprint,
        "precision": job.precision,
        "code_revision": code_revision(),
    }


def _speed(effort: Effort, price_per_hour: float | None) -> dict[str, Any]:
    """What this run did."""
    share = effort.limit_share
    cost = None if price_per_hour is None else round(price_per_hour * effort.seconds / 3600, 6)
    return {
        "units_this_run": effort.units,
        "tokens_this_run": effort.counts.tokens,
        "seconds": round(effort.seconds, 3),
        "tokens_per_s": round(effort.tokens_per_s, 1),
        "limit_share": None if share is None else round(share, 4),
        "cost": cost,
    }


def _last_speed(layout: SetLayout) -> dict[str, Any]:
    """What the last run that scored anything did; a run that only settles has no speed of its own."""
    nothing = _speed(Effort(), None)
    try:
        last: dict[str, Any] = json.loads(layout.root.read_bytes(f"{layout.ledger}/{_LAST_RUN}"))
    except StoreNotFound:
        return nothing
    return {key: last[key] for key in nothing} | {"units_this_run": 0}


def _to_json(facts: dict[str, Any]) -> bytes:
    return (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode()
