"""The evaluation from settings to results: check all that was given, then set by set read, answer, measure.

One process, no cluster: dev parts are thousands of texts. Every system answers the same clean texts, one after the
other, and its clock runs while it answers. The bundle itself answers in fp32, which other precisions are held against.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import torch

from cluster.store_errors import masked
from jobs.evaluate.answers import Answers, BundleSystem, Pass
from jobs.evaluate.baseline import Baseline, learnable_labels
from jobs.evaluate.compare import aligned
from jobs.evaluate.kinds import targets
from jobs.evaluate.machine import describe
from jobs.evaluate.measure import measure, report
from jobs.evaluate.precision import Tally
from jobs.evaluate.results import Evaluation, HeadResult, SetResult, Speed
from jobs.evaluate.rows import EvaluateError
from jobs.evaluate.sets import HeadLabels, LoadedSet, load_set
from jobs.evaluate.settings import EvaluateSettings
from jobs.evaluate.slices import slices
from jobs.evaluate.thresholds import check_names, judge_thresholds
from jobs.revision import code_revision
from models.bundle import Bundle
from models.fetch import fetch
from models.gates import REFERENCE

log = logging.getLogger("verbatim.evaluate")

BASELINE = "TF-IDF + logistic regression"


@dataclass
class _Run:
    """The systems that answer, and what is gathered from set to set."""

    settings: EvaluateSettings
    bundle: BundleSystem
    other: BundleSystem | None
    precisions: list[tuple[BundleSystem, Tally]]
    clock: dict[str, dict[str, tuple[int, float]]] = field(default_factory=lambda: defaultdict(dict))

    def systems(self) -> Iterator[BundleSystem]:
        """Every bundle and precision, the evaluated bundle first."""
        yield from (self.bundle, *([self.other] if self.other else []), *(system for system, _ in self.precisions))

    def answer(self, system: BundleSystem, loaded: LoadedSet) -> Pass:
        """Answers to a set, with the clock running."""
        answered = system.answer(loaded.rows.texts)
        self.count(str(system), loaded, answered.seconds)
        return answered

    def count(self, system: str, loaded: LoadedSet, seconds: float) -> None:
        """Add to a system's clock; a set's texts count once, however many heads are answered one after the other."""
        _, before = self.clock[system].get(loaded.name, (0, 0.0))
        self.clock[system][loaded.name] = (len(loaded.rows), before + seconds)


def evaluate(settings: EvaluateSettings) -> tuple[Evaluation, Bundle]:
    """Run it all.

    Raises
    ------
    ValueError, OSError : what is wrong with settings, bundle or sets, and what would be right.
    """
    bundle = fetch(settings.bundle)
    settings = _without_missing(settings, bundle) if settings.skip_missing_heads else settings
    _check(settings, bundle)
    run = _systems(settings, bundle)
    sets = tuple(_evaluate_set(name, run) for name in settings.sets)
    now, machine = datetime.now(UTC), describe(settings.device)
    evaluation = Evaluation(
        bundle=str(bundle),
        compared_with=str(run.other.bundle) if run.other else None,
        measured_at=now.isoformat(timespec="seconds"),
        code_revision=code_revision(),
        machine=machine,
        seed=settings.seed,
        sets=sets,
        speeds=tuple(_speeds(run)),
        thresholds=tuple(judge_thresholds(settings.gate, sets)),
        precisions={
            tally.precision: tally.record(measured_on=f"{now:%Y-%m-%d}", machine=machine) for _, tally in run.precisions
        },
    )
    return evaluation, bundle


def _without_missing(settings: EvaluateSettings, bundle: Bundle) -> EvaluateSettings:
    """Without labels of heads that the bundle hasn't, and without sets that are left with none."""
    known = {head.name for head in bundle.spec.heads}
    left = {
        name: one.model_copy(update={"labels": {head: label for head, label in one.labels.items() if head in known}})
        for name, one in settings.sets.items()
    }
    if missing := sorted({head for one in settings.sets.values() for head in one.labels} - known):
        log.warning("%s has no head %s: not evaluated", bundle, ", ".join(missing))
    sets = {name: one for name, one in left.items() if one.labels or settings.precisions}
    if not sets:
        raise EvaluateError(f"sets: no set has labels of a head of {bundle}, which are {', '.join(sorted(known))}")
    return settings.model_copy(update={"sets": sets})


def _check(settings: EvaluateSettings, bundle: Bundle) -> None:
    """What can be known wrong before a row is read."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise EvaluateError(f"device is cuda, but torch {torch.__version__} sees no GPU on this machine")
    for name, one in settings.sets.items():
        if not one.labels and not settings.precisions:
            raise EvaluateError(f"sets.{name} has no labels: give some, or precisions to hold against fp32")
    check_names(settings, {head.name: head for head in bundle.spec.heads})


def _systems(settings: EvaluateSettings, bundle: Bundle) -> _Run:
    def system(of: Bundle, precision: str) -> BundleSystem:
        threads = settings.threads or len(os.sched_getaffinity(0))
        return BundleSystem(of, precision, token_budget=settings.token_budget, device=settings.device, threads=threads)

    other = fetch(settings.compare_with) if settings.compare_with else None
    if str(other) == str(bundle):
        raise EvaluateError(f"compare_with: {settings.compare_with!r} is the evaluated bundle itself, {bundle}")
    return _Run(
        settings=settings,
        bundle=system(bundle, REFERENCE),
        other=system(other, REFERENCE) if other else None,
        precisions=[(system(bundle, one), Tally(one)) for one in settings.precisions],
    )


def _evaluate_set(name: str, run: _Run) -> SetResult:
    loaded = load_set(name, run.settings, run.bundle.bundle.spec.heads)
    log.info("%s: %d rows, %d evaluated, %d to train on", name, loaded.num_rows, len(loaded.rows), len(loaded.training))
    passes = {str(system): run.answer(system, loaded) for system in run.systems()}
    for system, tally in run.precisions:
        tally.add_answers(passes[str(run.bundle)], passes[str(system)])
    heads = tuple(_evaluate_head(labels, loaded, run, passes) for labels in loaded.labels)
    return SetResult(
        name=name,
        input=masked(loaded.settings.input),
        num_rows=loaded.num_rows,
        rejected=loaded.rows.rejected,
        num_held_out=loaded.num_held_out,
        num_evaluated=len(loaded.rows),
        num_seen=int(loaded.seen.sum()),
        num_repeated=loaded.num_repeated,
        heads=heads,
    )


def _evaluate_head(labels: HeadLabels, loaded: LoadedSet, run: _Run, passes: Mapping[str, Pass]) -> HeadResult:
    head, notes = labels.head, []
    own = [str(run.bundle), *(str(system) for system, _ in run.precisions)]
    answers = {system: passes[system].answers[head.name] for system in own}
    if run.other:
        found = aligned(head, run.other.bundle.spec.heads, passes[str(run.other)])
        if isinstance(found, str):
            notes.append(f"{run.other.bundle} can't be compared: {found}")
        else:
            answers[str(run.other)] = found
    baseline = _baseline(labels, loaded, run)
    if isinstance(baseline, str):
        notes.append(f"no baseline: {baseline}")
    elif baseline is not None:
        answers[BASELINE] = baseline
    measured = measure(labels, answers)
    for system, tally in run.precisions:
        tally.add_metrics(loaded.name, head.name, measured.metrics[str(run.bundle)], measured.metrics[str(system)])
    return report(measured, list(slices(loaded)), notes, run.settings.seed)


def _baseline(labels: HeadLabels, loaded: LoadedSet, run: _Run) -> Answers | str | None:
    """The traditional method's answers; the reason why there are none, or None if it wasn't asked for."""
    if run.settings.baseline is None:
        return None
    target_nc = targets(labels.head, labels.training.truth)
    if target_nc is None:
        return "the method labels texts, not spans"
    if not len(learnable_labels(target_nc)):
        return f"{len(target_nc)} labelled rows to train on, of fewer than two different labels"
    texts = [text for text, known in zip(loaded.training.texts, labels.training.known, strict=True) if known]
    model = Baseline(texts, target_nc, exclusive=labels.head.kind != "multi", seed=run.settings.seed)
    answers, seconds = model.answer(loaded.rows.texts)
    run.count(BASELINE, loaded, seconds)
    return answers


def _speeds(run: _Run) -> Iterator[Speed]:
    for system, by_set in run.clock.items():
        num_texts, seconds = (sum(column) for column in zip(*by_set.values(), strict=True))
        texts_per_s = num_texts / seconds if seconds else float("inf")
        price = run.settings.price_per_hour
        cost = None if price is None else price / 3600 / texts_per_s * 1e6
        yield Speed(system, int(num_texts), seconds, texts_per_s, cost)
