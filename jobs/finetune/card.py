"""The card of a fine-tuned bundle: its parent, its data, its figures against the floor, and its limits.

Written from the run's own data and evaluation, so it can't fall behind them. It holds labels, counts and ids of rows,
never a text.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from cluster.store_errors import masked
from jobs.evaluate.markdown import plain
from jobs.evaluate.results import Evaluation
from jobs.evaluate.wording import METRICS, gain, interval, verdict
from jobs.finetune.calibrate import Calibrated
from jobs.finetune.canaries import UNREMEMBERED, Exposure
from jobs.finetune.data import Data, label_counts
from jobs.finetune.learn import Learnt
from jobs.finetune.membership import FALSE_ALARMS, Membership
from jobs.finetune.settings import FinetuneSettings
from jobs.finetune.split import DEV, LEFT_OUT, TRAIN, TUNE
from jobs.finetune.teach import Teacher
from models.bundle import Bundle
from models.language import tag

MAX_LABELS = 40  # rows of a table of labels
MAX_IDS = 20  # groups of contradictory rows


@dataclass(frozen=True)
class Report:
    """All that the card says.

    is_moved : whether the trunk was trained.
    kept : untrained heads of the parent, with the share of answers on held-out texts that stayed the same.
    """

    name: str
    parent: Bundle
    teachers: list[Teacher]
    settings: FinetuneSettings
    data: Data
    learnt: Learnt
    is_moved: bool
    kept: dict[str, float]
    evaluation: Evaluation | None
    exposure: Exposure | None
    membership: list[Membership]


def write_card(report: Report) -> str:
    """The card as Markdown."""
    sections = (_what, _figures, _calibration, _data, _training, _privacy, _limits)
    return "\n".join(line for section in sections for line in (*section(report), "")).rstrip() + "\n"


def _what(report: Report) -> Iterator[str]:
    yield f"# {report.name}"
    yield ""
    yield f"Fine-tuned from `{report.parent}` on {datetime.now(UTC):%Y-%m-%d}; its card and terms hold here too."
    yield ""
    for head in report.learnt.heads:
        labels = ", ".join(plain(label) for label in head.spec.labels[:MAX_LABELS])
        more = f" and {len(head.spec.labels) - MAX_LABELS} more" if len(head.spec.labels) > MAX_LABELS else ""
        yield f"- `{head.spec.name}` ({head.spec.kind}): {labels}{more}"
    same_scores = "its scores are the parent's"
    for name, same in report.kept.items():
        moved = f"on the moved trunk {100 * same:.1f} % of its answers are the parent's"
        yield f"- `{name}`, kept untrained: {moved if report.is_moved else same_scores}"


def _figures(report: Report) -> Iterator[str]:
    yield "## Figures"
    yield ""
    if report.evaluation is None:
        yield "None: no text was held out."
        return
    yield (
        "On held-out texts, which neither training nor tuning saw, with 95 % intervals (bootstrap over texts). "
        "Differences are paired: above zero this bundle is better."
    )
    yield ""
    yield "| set | head | texts | metric | this bundle | other | its figure | difference |"
    yield "| --- | --- | ---: | --- | --- | --- | --- | --- |"
    for one in report.evaluation.sets:
        for head in one.heads:
            for metric in head.systems[0].figures if head.systems else ():
                ours = interval(metric, head.systems[0].figures[metric])
                start = f"| {plain(one.name)} | {head.head} | {head.num_texts:,} | {METRICS[metric]} | {ours} "
                for other in head.systems[1:]:
                    ahead = other.gains[metric]
                    theirs = interval(metric, other.figures[metric])
                    yield f"{start}| {plain(other.system)} | {theirs} | {gain(metric, ahead)}, {verdict(ahead)} |"
                if len(head.systems) == 1:
                    yield f"{start}| | | |"
    yield ""
    notes = {note for one in report.evaluation.sets for head in one.heads for note in head.notes}
    yield from (f"- {plain(note)}" for note in sorted(notes))
    yield "- More, with confusions and slices: `evaluation.md`, `evaluation.html`."


def _calibration(report: Report) -> Iterator[str]:
    yield "## Calibration"
    yield ""
    yield "Fitted on texts kept for tuning (few-shot: by cross-validation), each set counting the same."
    yield "The errors are on the same texts, all of them together."
    yield ""
    yield "| head | texts | temperature | threshold | calibration error without % | with % |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for head in report.learnt.heads:
        yield _calibration_row(head)
    for head in report.learnt.heads:
        if (one := head.abstention) is not None:
            yield ""
            yield (
                f"`{head.spec.name}`: answering only from a probability of {one.probability:.2f} on leaves "
                f"{100 * one.answered:.0f} % of texts answered, {100 * one.accuracy:.1f} % of them rightly instead of "
                f"{100 * one.accuracy_of_all:.1f} %."
            )


def _calibration_row(head: Calibrated) -> str:
    threshold = f"{head.spec.threshold}" if head.spec.kind == "multi" else ""
    if math.isnan(head.error_before):
        return f"| {head.spec.name} | {head.num_texts} | 1.0, too few texts to fit | {threshold} | | |"
    return (
        f"| {head.spec.name} | {head.num_texts:,} | {head.spec.temperature} | {threshold} "
        f"| {100 * head.error_before:.1f} | {100 * head.error_after:.1f} |"
    )


def _data(report: Report) -> Iterator[str]:
    data, settings = report.data, report.settings
    inputs = {name: one.input for name, one in settings.sets.items()} or {settings.set_name: str(settings.input)}
    yield "## Data"
    yield ""
    for name, source in inputs.items():
        yield f"- {plain(name)}: `{masked(source).rpartition('/')[2]}`"
    if settings.corrections:
        corrections = masked(settings.corrections).rpartition("/")[2]
        yield f"- corrections by people: `{corrections}`, {settings.corrections_weight:g} times the weight of a text"
    counts = Counter(data.parts.tolist())
    yield f"- texts: {counts[TRAIN]:,} trained on, {counts[TUNE]:,} for tuning, {counts[DEV]:,} held out"
    if counts[LEFT_OUT]:
        beyond = (
            "" if settings.train_share == 1 else f", or are beyond the share of {settings.train_share:g} to train on"
        )
        yield f"- left out: {counts[LEFT_OUT]:,} that repeat a held-out or a corrected text{beyond}"
    if data.rejected:
        yield "- rejected: " + ", ".join(f"{count:,} {reason}" for reason, count in sorted(data.rejected.items()))
    yield f"- over the limit, so that their end was cut: {report.learnt.num_truncated:,}"
    languages = Counter(tag(text) for text in data.texts).most_common(6)
    yield "- languages: " + ", ".join(f"{name} {100 * count / len(data):.1f} %" for name, count in languages)
    for head in data.heads:
        groups = data.contradictory[head.spec.name]
        if groups:
            shown = "; ".join(", ".join(map(plain, group)) for group in groups[:MAX_IDS])
            yield f"- `{head.spec.name}`: {len(groups):,} texts with contradictory labels, by id: {shown}"
    yield ""
    yield "| head | label | trained on | held out |"
    yield "| --- | --- | ---: | ---: |"
    for head in data.heads:
        trained, held = label_counts(data, head, TRAIN), label_counts(data, head, DEV)
        for label in list(trained)[:MAX_LABELS]:
            yield f"| {head.spec.name} | {plain(label)} | {trained[label]:,} | {held[label]:,} |"


def _training(report: Report) -> Iterator[str]:
    learnt, schedule = report.learnt, report.settings.schedule
    yield "## Training"
    yield ""
    if learnt.method == "fewshot":
        yield "Few examples a label: the parent's trunk as it is, logistic regression on its mean-pooled vectors."
        return
    what = "trunk and heads" if report.is_moved else "heads alone, on a frozen trunk"
    best = f", ended early with the best of {len(learnt.worths)}" if learnt.is_early else ", the last weights kept"
    yield (
        f"{what.capitalize()}: {learnt.epochs} epochs planned{best}; {len(learnt.losses):,} steps, loss "
        f"{np.mean(learnt.losses[:20]):.3f} at first, {np.mean(learnt.losses[-20:]):.3f} at last; Muon at "
        f"{schedule.matrix_learning_rate} and AdamW at {schedule.learning_rate}, a layer below at "
        f"{schedule.layer_decay} of the one above; seed {report.settings.seed}."
    )
    if share := report.settings.parent_share:
        yield ""
        yield f"Then {share:.0%} of the parent's weights were put back (WiSE-FT, Wortsman et al. 2021)."
    for teacher in report.teachers:
        sets = ", ".join(map(plain, teacher.settings.sets))
        yield ""
        yield (
            f"`{teacher.settings.head}` also learnt what `{teacher.bundle}` finds likely, {teacher.settings.weight:g} "
            f"beside a label's {1 - teacher.settings.weight:g} and alone where there is none: on {sets}."
        )
    yield ""
    share = 100 * learnt.matmul_share
    yield f"{learnt.tokens_per_s:,.0f} tokens/s, {share:.0f} % of this machine's matrix-product limit."


def _privacy(report: Report) -> Iterator[str]:
    yield "## Privacy"
    yield ""
    yield "Personal data was masked before a text reached the tokeniser, a checkpoint or the bundle."
    for head in report.membership:
        yield ""
        yield (
            f"Whether a text was trained on, told by how likely `{head.head}` finds its label: right for "
            f"{100 * head.pairs_right:.1f} % of pairs ({100 * head.low:.1f} to {100 * head.high:.1f}; chance: 50) of a "
            f"text trained on and one held out; {100 * head.found:.1f} % found at {100 * FALSE_ALARMS:.0f} % of false "
            f"alarms (chance: {100 * FALSE_ALARMS:.0f}). {head.num_texts:,} texts of each sort."
        )
    if report.exposure is None:
        return
    bits = report.exposure.bits
    yield ""
    yield (
        f"{len(bits)} planted secrets: mean exposure {np.mean(bits):.1f} bits, highest {max(bits):.1f}. A text that "
        f"isn't remembered has {UNREMEMBERED} on average; complete memory would show {report.exposure.most:.0f}."
    )


def _limits(report: Report) -> Iterator[str]:
    yield "## Limits"
    yield ""
    longest = report.settings.max_length or report.parent.spec.max_length
    yield f"- Texts over {longest} tokens are judged by their beginning."
    yield "- Other products, times and languages than those of its texts weren't measured."
    yield "- Labels that stand for few texts above are learnt badly; their figures have wide intervals."
    yield "- The parent's limits hold."
