"""The card of a distilled bundle: whose pupil it is, from which texts, how near it came, and its limits.

Written from the run itself. It holds counts and names of files, never a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from cluster.store_errors import masked
from jobs.distil.learn import Learnt
from jobs.distil.settings import DistilSettings
from jobs.distil.student import Origin
from models.bundle import Bundle
from models.heads import HeadSpec

UNCREDITED = "its licence wasn't told"


@dataclass(frozen=True)
class Asked:
    """A teacher and how much it was asked about; `num_tokens` are the student's."""

    teacher: Bundle
    num_texts: int
    num_tokens: int


@dataclass(frozen=True)
class Report:
    """All that the card says."""

    settings: DistilSettings
    origin: Origin
    heads: tuple[HeadSpec, ...]
    learnt: Learnt
    asked: Mapping[str, Asked]


def write_card(report: Report) -> str:
    """The card as Markdown."""
    sections = (_what, _nearness, _training, _limits)
    return "\n".join(line for section in sections for line in (*section(report), "")).rstrip() + "\n"


def _what(report: Report) -> Iterator[str]:
    settings, arch = report.settings, report.origin.arch
    yield f"# {settings.name or settings.output.rstrip('/').rpartition('/')[2]}"
    yield ""
    teachers = (f"`{report.asked[n].teacher}` ({one.credit or UNCREDITED})" for n, one in settings.lessons.items())
    yield (
        f"A {arch.family} of {arch.num_hidden_layers} layers x {arch.hidden_size}, distilled on "
        f"{datetime.now(UTC):%Y-%m-%d} from {' and '.join(teachers)}."
    )
    yield ""
    yield _beginning(report.origin)
    yield ""
    for head in report.heads:
        labels = f": {', '.join(head.labels)}" if head.labels else f", {head.size} numbers"
        yield f"- `{head.name}` ({head.kind}){labels}"


def _beginning(origin: Origin) -> str:
    if origin.parent:
        return f"It goes on from `{origin.parent}`; its card and terms hold too."
    if origin.like:
        words = f", with the vocabulary of `{origin.vocabulary}` and its embeddings" if origin.vocabulary else ""
        return f"It began as `{origin.like}` made over into a Megatron-BERT{words}: these terms hold too."
    return "Its weights began at random."


def _nearness(report: Report) -> Iterator[str]:
    learnt = report.learnt
    yield "## Nearness to the teacher"
    yield ""
    yield f"On {learnt.num_held_out:,} texts that it didn't learn from; 0 would be the teacher."
    yield ""
    yield "| lesson | loss | weight | before | after |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for lesson, losses in learnt.after.items():
        for name, after in losses.items():
            weight = getattr(report.settings.lessons[lesson].losses, name)
            yield f"| {lesson} | {name} | {weight:g} | {learnt.before[lesson][name]:.4f} | {after:.4f} |"


def _training(report: Report) -> Iterator[str]:
    settings, learnt, schedule = report.settings, report.learnt, report.settings.schedule
    yield "## Training"
    yield ""
    for lesson, one in settings.lessons.items():
        files = ", ".join(f"{name} (`{masked(part.input).rpartition('/')[2]}`)" for name, part in one.sets.items())
        asked = report.asked[lesson]
        yield (
            f"- {lesson}: {asked.num_texts:,} different texts of {asked.num_tokens:,} tokens, personal data masked, "
            f"of {files}"
        )
    yield (
        f"- {schedule.epochs} epochs, {learnt.num_steps:,} steps, loss {learnt.first_loss:.4f} at first, "
        f"{learnt.last_loss:.4f} at last; Muon at {schedule.matrix_learning_rate} and AdamW at "
        f"{schedule.learning_rate}; seed {settings.seed}"
    )


def _limits(report: Report) -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield f"- Texts over {report.origin.max_length} tokens are judged by their beginning."
    yield "- It knows its teachers' languages, as far as the texts above held them."
    yield "- The teachers' limits and terms hold."
