"""The card of a distilled bundle: whose pupil it is, from which texts, how near it came, and its limits.

Written from the run itself. It holds counts and names of files, never a text.
"""

from __future__ import annotations

from collections.abc import Iterator
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
class Report:
    """All that the card says; `num_tokens` are the student's."""

    settings: DistilSettings
    teacher: Bundle
    origin: Origin
    heads: tuple[HeadSpec, ...]
    learnt: Learnt
    num_texts: int
    num_tokens: int


def write_card(report: Report) -> str:
    """The card as Markdown."""
    sections = (_what, _nearness, _training, _limits)
    return "\n".join(line for section in sections for line in (*section(report), "")).rstrip() + "\n"


def _what(report: Report) -> Iterator[str]:
    settings, arch = report.settings, report.origin.arch
    parent = report.origin.parent
    yield f"# {settings.name or settings.output.rstrip('/').rpartition('/')[2]}"
    yield ""
    yield (
        f"A {arch.family} of {arch.num_hidden_layers} layers x {arch.hidden_size}, distilled on "
        f"{datetime.now(UTC):%Y-%m-%d} from the teacher `{report.teacher}` ({settings.credit or UNCREDITED})."
    )
    yield ""
    yield f"It goes on from `{parent}`; its card and terms hold too." if parent else "Its weights began at random."
    yield ""
    for head in report.heads:
        labels = f": {', '.join(head.labels)}" if head.labels else f", {head.size} numbers"
        yield f"- `{head.name}` ({head.kind}){labels}"


def _nearness(report: Report) -> Iterator[str]:
    learnt = report.learnt
    yield "## Nearness to the teacher"
    yield ""
    yield f"On {learnt.num_held_out:,} texts that it didn't learn from; 0 would be the teacher."
    yield ""
    yield "| loss | weight | before | after |"
    yield "| --- | ---: | ---: | ---: |"
    for name, after in learnt.after.items():
        weight = getattr(report.settings.losses, name)
        yield f"| {name} | {weight:g} | {learnt.before[name]:.4f} | {after:.4f} |"


def _training(report: Report) -> Iterator[str]:
    settings, learnt, schedule = report.settings, report.learnt, report.settings.schedule
    yield "## Training"
    yield ""
    for name, one in settings.sets.items():
        yield f"- {name}: `{masked(one.input).rpartition('/')[2]}`"
    yield f"- {report.num_texts:,} different texts of {report.num_tokens:,} tokens, personal data masked"
    yield (
        f"- {schedule.epochs} epochs, {learnt.num_steps:,} steps, loss {learnt.first_loss:.4f} at first, "
        f"{learnt.last_loss:.4f} at last; Muon at {schedule.matrix_learning_rate} and AdamW at "
        f"{schedule.learning_rate}; seed {settings.seed}"
    )


def _limits(report: Report) -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield f"- Texts over {report.origin.max_length} tokens are judged by their beginning."
    yield "- It knows its teacher's languages, as far as the texts above held them."
    yield "- The teacher's limits and terms hold."
