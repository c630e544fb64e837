"""The scoring run: prepare, score what is missing, close the books.

`run` is the whole story; each step stands in its own file. A run that is killed at any moment is taken up by giving the
same command again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from cluster.session import session
from jobs.reading.badfiles import BadFile, BadFiles
from jobs.reading.spans import verify_file
from jobs.score.estimate import num_rows, tokens_per_row
from jobs.score.layout import MANIFEST, read_done
from jobs.score.lease import Lease
from jobs.score.ledger import Ledger, fix, note_halved, open_ledger, read_bad_spans, write_bad_spans
from jobs.score.pipeline import receipts
from jobs.score.plan import Plan, make_plan, spans_of_file
from jobs.score.prepare import Prepared, prepare
from jobs.score.probe import probe_actors_per_gpu, probe_token_budget
from jobs.score.progress import Effort, Progress
from jobs.score.recipe import Recipe
from jobs.score.settings import ScoreSettings
from jobs.score.settle import IncompleteError, describes, read_manifest, require_few_rejected, settle

log = logging.getLogger("verbatim.score")


def run(settings: ScoreSettings) -> dict[str, Any]:
    """Score what isn't scored yet; gives the manifest.

    Raises
    ------
    ValueError, OSError : something can't be used; nothing was started.
    LeaseError : another run is at work on the same set.
    IncompleteError : work was begun and isn't whole: rows are missing, a store or disk failed, too many were rejected.
    """
    job = prepare(settings)
    with Lease(job.layout.root, f"{job.layout.ledger}/lease.json") as lease:
        ledger = open_ledger(job.layout, job.wanted, write=True)
        plan = look(job, ledger)
        manifest = read_manifest(job.layout)
        if manifest and describes(manifest, job, plan):
            require_few_rejected(manifest, settings.max_rejected_share)
            log.info("nothing to do: all %s units of the input are scored", manifest["units"])
            return manifest
        with session(settings.ray_address):
            plan = verify(job, ledger, plan)
            lease.confirm()
            ledger = probed(job, ledger) if plan.tasks else ledger
            return _work(job, ledger, plan, lease)


def _work(job: Prepared, ledger: Ledger, plan: Plan, lease: Lease) -> dict[str, Any]:
    """From here on the set changes, so its manifest goes first."""
    try:
        job.layout.root.delete(MANIFEST)
        job.layout.root.sweep(job.layout.scores)
        job.layout.root.sweep(job.layout.rejected)
        effort = score(job, ledger, plan, lease)
        if effort.halved:
            note_halved(job.layout, effort.halved)
        return settle(job, look(job, ledger), effort, lease)
    except RayError:
        raise
    except (OSError, ValueError) as error:
        raise IncompleteError(f"{type(error).__name__}: {error}") from error


def look(job: Prepared, ledger: Ledger) -> Plan:
    """List what the set holds, and subtract it from the input."""
    done = read_done(info.path for info in job.layout.root.list(job.layout.scores))
    known = read_bad_spans(job.layout) if job.settings.bad_files == "reject" else {}
    return make_plan(job.spans, ledger.execution, done, known)


def verify(job: Prepared, ledger: Ledger, plan: Plan) -> Plan:
    """Decompress compressed files through, on the cluster, before a unit of them is written."""
    compressed = [task for task in plan.tasks if task.span.file.compression]
    check = ray.remote(num_cpus=0.1)(verify_file)
    causes = ray.get([check.remote(task.span) for task in compressed])
    bad = [BadFile(task.span.file.path, cause) for task, cause in zip(compressed, causes, strict=True) if cause]
    return reject(job, ledger, plan, bad) if bad else plan


def reject(job: Prepared, ledger: Ledger, plan: Plan, bad: Sequence[BadFile]) -> Plan:
    """Go on without these files if the settings allow it, and remember them."""
    if job.settings.bad_files == "stop":
        raise BadFiles(bad)
    spans = {span: file for one in bad for span, file in spans_of_file(plan.tasks, one).items()}
    write_bad_spans(job.layout, {**plan.bad, **spans})
    plan = look(job, ledger)
    if not plan.tasks and not plan.finished:
        raise BadFiles(sorted(set(plan.bad.values()), key=lambda file: file.path))
    return plan


def score(job: Prepared, ledger: Ledger, plan: Plan, lease: Lease) -> Effort:
    """Do the plan's tasks, without the files that turn out bad on the way if the settings allow it."""
    effort = Effort()
    while plan.tasks:
        try:
            _score(job, ledger, plan, effort, lease)
            break
        except RayTaskError as error:
            if not isinstance(error.cause, BadFiles) or job.settings.bad_files == "stop":
                raise
            plan = reject(job, ledger, look(job, ledger), error.cause.files)
    return effort


def probed(job: Prepared, ledger: Ledger) -> Ledger:
    """The ledger with all that the set's first run has to find on the device."""
    pool = job.settings.pool
    if ledger.execution.token_budget is None:
        budget = probe_token_budget(recipe_of(job, ledger), pool)
        ledger = fix(job.layout, ledger, replace(ledger.execution, token_budget=budget))
    if ledger.execution.actors_per_gpu is None and pool.num_gpus == "auto":
        num = probe_actors_per_gpu(recipe_of(job, ledger), pool)
        log.info("%d actors share a GPU", num)
        ledger = fix(job.layout, ledger, replace(ledger.execution, actors_per_gpu=num))
    return ledger


def recipe_of(job: Prepared, ledger: Ledger) -> Recipe:
    """What the run's workers are told."""
    return Recipe(
        bundle=job.reference,
        heads=tuple(head.name for head in job.bundle.spec.heads),
        columns=job.settings.reading_columns(),
        limits=ledger.execution.limits,
        layout=job.layout,
        precision=job.precision,
        device="cuda" if job.settings.pool.num_gpus else "cpu",
        token_budget=ledger.execution.token_budget,
        threads=ledger.execution.threads,
    )


def gpus_of_actor(job: Prepared, ledger: Ledger) -> float:
    """What one actor holds of a GPU: as set, or the share that a probe found."""
    if job.settings.pool.num_gpus != "auto":
        return job.settings.pool.num_gpus
    assert ledger.execution.actors_per_gpu is not None, "the run has probed"
    return 1 / ledger.execution.actors_per_gpu


def _score(job: Prepared, ledger: Ledger, plan: Plan, effort: Effort, lease: Lease) -> None:
    recipe = recipe_of(job, ledger)
    with closing(Progress(plan.num_rows, effort)) as progress:
        for some in receipts(recipe, plan.tasks, job.settings.pool, gpus_of_actor(job, ledger)):
            lease.check()
            for receipt in some:
                effort.add(receipt)
            progress.show()


def describe(settings: ScoreSettings) -> dict[str, Any]:
    """Say what `run` would do, and do nothing."""
    job = prepare(settings)
    plan = look(job, open_ledger(job.layout, job.wanted, write=False))
    mean = tokens_per_row(plan.tasks, settings.reading_columns(), job.bundle)
    rows = num_rows(plan)
    return {
        "input": job.settings.input,
        "set of scores": f"{job.settings.output}/{job.layout.scores}/",
        "bundle": str(job.bundle),
        "heads": ", ".join(head.name for head in job.bundle.spec.heads),
        "fingerprint": job.layout.fingerprint,
        "precision": job.precision,
        "files to read": plan.num_files,
        "bytes to read": plan.num_bytes,
        "rows to read" if rows == plan.num_rows else "rows to read, about": rows,
        "tokens, about": None if rows is None or mean is None else round(rows * mean),
        "tokens a row, about": None if mean is None else round(mean, 1),
        "spans to read": len(plan.tasks),
        "spans done": len(plan.finished),
        "units done": len(plan.valid),
        "units superseded": len(plan.superseded),
        "files rejected whole": len({file.path for file in plan.bad.values()} | {file.path for file in job.bad_files}),
    }
