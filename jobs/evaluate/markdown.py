"""The evaluation as one Markdown page. Names of sets, labels and systems are escaped: none of them can be markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from jobs.evaluate.results import Evaluation, HeadResult
from jobs.evaluate.wording import (
    METRICS,
    confusions,
    facts,
    gain,
    head_facts,
    interval,
    number,
    overview,
    rivals,
    slice_systems,
    verdict,
)

_SPECIAL = re.compile(r"([\\`*_\[\]|#~])")


def markdown_page(evaluation: Evaluation) -> str:
    """The whole page."""
    sections = (_top, _overview, _speed, _precisions, _thresholds, _sets)
    return "\n".join(line for section in sections for line in section(evaluation)) + "\n"


def plain(text: object) -> str:
    """Text that no Markdown reader takes for markup, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(escape(str(text), quote=False).split()))


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield ""
    yield f"| {' | '.join(map(plain, header))} |"
    yield f"|{' --- |' * len(header)}"
    yield from (f"| {' | '.join(map(plain, row))} |" for row in rows)
    yield ""


def _top(evaluation: Evaluation) -> Iterator[str]:
    yield f"# Evaluation of {plain(evaluation.bundle)}"
    yield ""
    yield (
        f"Measured at {evaluation.measured_at} on {plain(evaluation.machine)}, code {plain(evaluation.code_revision)}, "
        f"seed {evaluation.seed}. In brackets: 95 % intervals by bootstrap over texts; differences are paired."
    )
    if evaluation.thresholds or evaluation.precisions:
        yield ""
        yield f"**Gate: {'passed' if evaluation.passed else 'failed'}.**"


def _overview(evaluation: Evaluation) -> Iterator[str]:
    rows = []
    for one, head, ours in overview(evaluation):
        figure = interval(head.headline, ours.figures[head.headline])
        against = [
            f"{system.system}: {gain(head.headline, ahead)}, {verdict(ahead)}"
            for system in rivals(evaluation, head)
            if (ahead := system.gains[head.headline])
        ]
        rows.append((one.name, head.head, METRICS[head.headline], figure, f"{head.num_texts:,}", "; ".join(against)))
    if rows:
        yield from _table(("set", "head", "metric", "figure", "texts", "difference from"), rows)


def _speed(evaluation: Evaluation) -> Iterator[str]:
    yield "## Speed"
    rows = [
        (
            s.system,
            f"{s.num_texts:,}",
            f"{s.texts_per_s:,.0f}",
            "" if s.cost_per_million is None else f"{s.cost_per_million:.2f}",
        )
        for s in evaluation.speeds
    ]
    yield from _table(("system", "texts", "texts/s", "cost per million texts"), rows)


def _precisions(evaluation: Evaluation) -> Iterator[str]:
    if evaluation.precisions:
        yield "## Precisions against fp32"
        rows = [(name, _passed(record.passed), str(record)) for name, record in evaluation.precisions.items()]
        yield from _table(("precision", "verdict", "figures"), rows)


def _thresholds(evaluation: Evaluation) -> Iterator[str]:
    if evaluation.thresholds:
        yield "## Gate"
        rows = [
            (
                t.set,
                t.head,
                METRICS[t.metric],
                number(t.metric, t.found),
                _wanted(t.lower_is_better, number(t.metric, t.wanted)),
                _passed(t.passed),
            )
            for t in evaluation.thresholds
        ]
        yield from _table(("set", "head", "metric", "found", "wanted", "verdict"), rows)


def _sets(evaluation: Evaluation) -> Iterator[str]:
    for one in evaluation.sets:
        yield f"## {plain(one.name)}"
        yield ""
        yield " ".join(plain(fact) for fact in facts(one))
        yield ""
        for head in one.heads:
            yield from _head(evaluation, head)


def _head(evaluation: Evaluation, head: HeadResult) -> Iterator[str]:
    yield f"### {plain(head.head)}"
    yield ""
    yield " ".join(plain(fact) for fact in head_facts(head))
    if not head.systems:
        return
    metrics = list(head.systems[0].figures)
    rows = [(s.system, *(interval(m, s.figures[m]) for m in metrics)) for s in head.systems]
    yield from _table(("system", *(METRICS[metric] for metric in metrics)), rows)
    if mistakes := confusions(head):
        yield from _table(("label", "answered", "texts"), mistakes)
    if head.slices:
        systems = slice_systems(evaluation, head)
        cells = [
            (s.by, s.value, f"{s.num_texts:,}", *(interval(head.headline, s.figures[n]) for n in systems))
            for s in head.slices
        ]
        yield from _table(("slice", "value", "texts", *(f"{METRICS[head.headline]}, {n}" for n in systems)), cells)


def _passed(passed: bool) -> str:
    return "passed" if passed else "failed"


def _wanted(lower_is_better: bool, value: str) -> str:
    return f"{'at most' if lower_is_better else 'at least'} {value}"
