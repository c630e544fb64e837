"""The gate: figures that a bundle must reach, `set: {head: {metric: value}}`.

A value is at least what a metric must be, or at most for errors. Names are checked before anything is scored.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping

from jobs.evaluate.kinds import KINDS
from jobs.evaluate.results import HeadResult, SetResult, Threshold
from jobs.evaluate.rows import EvaluateError
from jobs.evaluate.settings import EvaluateSettings
from models.heads import HeadSpec

LOWER_IS_BETTER = ("mean_error", "calibration_error")

Gate = Mapping[str, Mapping[str, Mapping[str, float]]]


def check_names(settings: EvaluateSettings, heads: Mapping[str, HeadSpec]) -> None:
    """Raise EvaluateError for a set, head or metric of the gate that won't be measured."""
    for name, by_head in settings.gate.items():
        _require(name, settings.sets, "gate")
        for head, by_metric in by_head.items():
            _require(head, settings.sets[name].labels, f"gate.{name}")
            for metric in by_metric:
                _require(metric, KINDS[heads[head].kind].metric_names, f"gate.{name}.{head}")


def judge_thresholds(gate: Gate, sets: Iterable[SetResult]) -> Iterator[Threshold]:
    """Hold the figures against the gate; what couldn't be measured isn't reached."""
    heads = {(one.name, head.head): head for one in sets for head in one.heads}
    for name, by_head in gate.items():
        for head, by_metric in by_head.items():
            for metric, wanted in by_metric.items():
                found, lower = _found(heads[name, head], metric), metric in LOWER_IS_BETTER
                yield Threshold(name, head, metric, wanted, found, lower, found <= wanted if lower else found >= wanted)


def _found(head: HeadResult, metric: str) -> float:
    figures = head.systems[0].figures if head.systems else {}
    return figures[metric].value if metric in figures else float("nan")


def _require(name: str, known: Iterable[str], where: str) -> None:
    names = sorted(known)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names) or 'none'}"
        raise EvaluateError(f"{where}: nothing called {name!r} is measured: {hint}")
