"""Figures in words, the same on both pages and in the terminal: shares in percent, errors of grades as they are."""

from __future__ import annotations

import math
from collections.abc import Iterator

from jobs.evaluate.bootstrap import Figure
from jobs.evaluate.results import Evaluation, HeadResult, SetResult, SystemFigures

METRICS = {
    "accuracy": "accuracy, %",
    "macro_f1": "macro-F1, %",
    "micro_f1": "micro-F1, %",
    "two_way_accuracy": "two-way accuracy, %",
    "span_f1": "span F1, %",
    "place_f1": "span F1 without label, %",
    "mean_error": "mean error",
    "calibration_error": "calibration error, %",
}

MAX_GROUPS, MAX_IDS = 5, 3  # of rows with contradictory labels, on a page


def number(metric: str, value: float) -> str:
    """One value: `88.7`, or `0.52` of an error of grades, or a dash where nothing could be measured."""
    if not math.isfinite(value):
        return "–"
    return f"{value:z.3f}" if metric == "mean_error" else f"{100 * value:z.1f}"


def interval(metric: str, figure: Figure) -> str:
    """A value with its 95 % interval: `88.7 (86.5 to 90.6)`."""
    low, high = number(metric, figure.low), number(metric, figure.high)
    return f"{number(metric, figure.value)} ({low} to {high})"


def gain(metric: str, figure: Figure) -> str:
    """A paired difference, signed: `+2.1 (+0.4 to +3.9)`; percentages differ by points."""
    shown = [_signed(metric, value) for value in (figure.value, figure.low, figure.high)]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def verdict(figure: Figure) -> str:
    """What a paired difference says of the evaluated bundle."""
    if figure.low > 0:
        return "better"
    return "worse" if figure.high < 0 else "no clear difference"


def facts(one: SetResult) -> Iterator[str]:
    """What there is to say about a set's rows, a sentence each."""
    drawn = "" if one.num_evaluated == one.num_held_out else f", {one.num_evaluated:,} of them drawn"
    yield f"{one.num_rows:,} rows; {one.num_held_out:,} to evaluate{drawn}."
    if one.rejected:
        yield "Left out: " + ", ".join(f"{count:,} {reason}" for reason, count in sorted(one.rejected.items())) + "."
    if one.num_seen:
        yield f"{one.num_seen:,} evaluated texts also stand in the set's other rows: their figures flatter."
    if one.num_repeated:
        yield f"{one.num_repeated:,} evaluated rows repeat an earlier one's text."


def head_facts(head: HeadResult) -> Iterator[str]:
    """What there is to say about a head's labels, a sentence each."""
    training = f"; {head.num_training:,} to train the baseline" if head.num_training else ""
    yield f"{head.num_texts:,} labelled texts{training}."
    if head.num_unlabelled:
        yield f"{head.num_unlabelled:,} evaluated rows have no label and are left out."
    if head.contradictory:
        groups = "; ".join(_named(group) for group in head.contradictory[:MAX_GROUPS])
        yield f"{len(head.contradictory):,} texts have contradictory labels: {groups}. All stand in evaluation.json."
    yield from (f"{note[:1].upper()}{note[1:]}." for note in head.notes)


def rivals(evaluation: Evaluation, head: HeadResult) -> list[SystemFigures]:
    """The other systems that a bundle is held against; its own precisions have a table of theirs."""
    return [one for one in head.systems[1:] if not one.system.startswith(f"{evaluation.bundle} ")]


def slice_systems(evaluation: Evaluation, head: HeadResult) -> list[str]:
    """Systems that slices are shown of: the bundle and its rivals."""
    return [head.systems[0].system, *(one.system for one in rivals(evaluation, head))]


def matrix(head: HeadResult) -> list[tuple[str, list[tuple[str, int]]]]:
    """The confusion matrix, rows and columns by name, without labels that nobody gave."""
    counts = [list(row) for row in head.confusion]
    used = [i for i in range(len(counts)) if any(counts[i]) or any(row[i] for row in counts)]
    return [(head.labels[i], [(head.labels[j], counts[i][j]) for j in used]) for i in used]


def confusions(head: HeadResult, most: int = 15) -> list[tuple[str, str, int]]:
    """The commonest mistakes: label, answer, texts."""
    pairs = [
        (head.labels[i], head.labels[j], count)
        for i, row in enumerate(head.confusion)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:most]


def overview(evaluation: Evaluation) -> Iterator[tuple[SetResult, HeadResult, SystemFigures]]:
    """Every measured head of every set, with the evaluated bundle's figures."""
    for one in evaluation.sets:
        for head in one.heads:
            if head.systems:
                yield one, head, head.systems[0]


def _named(group: tuple[str, ...]) -> str:
    more = f" and {len(group) - MAX_IDS} more" if len(group) > MAX_IDS else ""
    return ", ".join(group[:MAX_IDS]) + more


def _signed(metric: str, value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value:+z.3f}" if metric == "mean_error" else f"{100 * value:+z.1f}"
