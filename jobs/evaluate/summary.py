"""The evaluation in the terminal: one line a head and set, then speed, precisions and thresholds."""

from __future__ import annotations

from collections.abc import Iterator

from jobs.evaluate.results import Evaluation
from jobs.evaluate.wording import METRICS, gain, interval, number, overview, verdict


def summary(evaluation: Evaluation) -> str:
    """Some lines of text."""
    return "\n".join(line for part in (_heads, _speeds, _verdicts) for line in part(evaluation))


def _heads(evaluation: Evaluation) -> Iterator[str]:
    for one, head, ours in overview(evaluation):
        metric = head.headline
        figure = interval(metric, ours.figures[metric])
        yield f"{one.name} {head.head}: {METRICS[metric]} {figure}, {head.num_texts:,} texts"
        for system in head.systems[1:]:
            theirs, ahead = system.figures[metric], system.gains[metric]
            yield f"    against {system.system}: {interval(metric, theirs)}; {gain(metric, ahead)}, {verdict(ahead)}"


def _speeds(evaluation: Evaluation) -> Iterator[str]:
    for speed in evaluation.speeds:
        cost = "" if speed.cost_per_million is None else f", {speed.cost_per_million:.2f} per million texts"
        yield f"{speed.system}: {speed.texts_per_s:,.0f} texts/s{cost}"


def _verdicts(evaluation: Evaluation) -> Iterator[str]:
    for precision, record in evaluation.precisions.items():
        yield f"{precision} {'passed' if record.passed else 'FAILED'}: {record}"
    for one in evaluation.thresholds:
        side = "at most" if one.lower_is_better else "at least"
        found, wanted = number(one.metric, one.found), number(one.metric, one.wanted)
        verdict = "passed" if one.passed else "FAILED"
        yield f"gate {verdict}: {one.set} {one.head} {METRICS[one.metric]} {found}, wanted {side} {wanted}"
