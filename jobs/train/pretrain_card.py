"""The card of a pretrained trunk: what it was trained on and how, from the run's own settings and curve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import numpy as np

from cluster.store_errors import masked
from jobs.train.curves import Point
from jobs.train.trainer import Job

_LAST = 20  # steps whose mean loss is given


def write_card(job: Job, points: Sequence[Point], num_tokens: int, num_parameters: int) -> str:
    """The card as Markdown."""
    sections = (_what(job, num_parameters), _training(job, points, num_tokens), _limits(job))
    return "\n".join(line for section in sections for line in (*section, ""))


def _what(job: Job, num_parameters: int) -> Iterator[str]:
    shape = job.settings.architecture
    yield f"# {job.settings.name}"
    yield ""
    yield (
        f"A {shape.family} of {shape.num_hidden_layers} layers x {shape.hidden_size} ({num_parameters / 1e6:.1f} M "
        f"parameters), at most {shape.max_length} tokens a text, {_origin(job)}. Seed {job.settings.seed}, "
        f"finished on {datetime.now(UTC):%Y-%m-%d}."
    )


def _origin(job: Job) -> str:
    if job.settings.bundle is None:
        return "pretrained from scratch"
    return f"pretrained further from `{masked(job.settings.bundle)}`, whose card and terms hold here too"


def _training(job: Job, points: Sequence[Point], num_tokens: int) -> Iterator[str]:
    settings, schedule = job.settings, job.settings.schedule
    objective = "next words" if settings.objective.kind == "clm" else f"hidden words ({_hidden(job)})"
    order = " and the order of two segments" if settings.objective.sentence_order else ""
    yield "## Training"
    yield ""
    yield f"- Objective: {objective}{order}."
    yield (
        f"- {len(points):,} steps of at most {schedule.batch_tokens:,} tokens, {sum(p.tokens for p in points):,} "
        f"in all, out of {num_tokens:,} different ones; {schedule.epochs} epochs at most."
    )
    yield f"- Optimizer: {schedule.optimizer}, rate {schedule.rate:g}, weight decay {schedule.weight_decay:g}."
    if points:
        mean = float(np.mean([point.word_loss for point in points[-_LAST:]]))
        last = min(_LAST, len(points))
        yield f"- Loss a word over the last {last} steps: {mean:.3f} (perplexity {np.exp(mean):.1f})."
    yield f"- Vocabulary: {job.architecture.vocab_size:,} tokens."
    yield "- Personal data was masked before any text reached the tokenizer or the trunk."
    yield ""
    yield "| source | column | rows | times an epoch |"
    yield "| --- | --- | --- | ---: |"
    for source in settings.data:
        rows = f"{source.split.column} {source.split.value}" if source.split else "all"
        yield f"| {masked(source.input)} | {source.text} | {rows} | {source.weight:g} |"


def _hidden(job: Job) -> str:
    chinese = "jieba's words" if job.words == "jieba" else "runs of characters by chance"
    return f"{100 * job.settings.objective.mask_rate:.0f} % of tokens, whole words; in Chinese {chinese}"


def _limits(job: Job) -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield "- It knows text, and no task: fine-tune it before it is asked for an answer."
    yield f"- Languages, as its maker says: {', '.join(job.settings.languages)}."
    yield "- The terms of the sources above are the reader's to check."
