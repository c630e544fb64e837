"""The part of the card that the preparation knows: sets, terms, attribution, and what the weak labels are worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from jobs.starter.label import HEADS
from jobs.starter.sets import SETS
from jobs.starter.weak import Tally

MADE_OF_OTHERS = ("mixed", "pieces")


def write_terms(path: Path, counts: Mapping[str, Counter[str]], tally: Tally) -> None:
    """Write the section as Markdown."""
    path.write_text("\n".join(_terms(counts, tally)) + "\n", encoding="utf-8")


def _terms(counts: Mapping[str, Counter[str]], tally: Tally) -> Iterator[str]:
    yield from ("", "## Terms, attribution, weak labels", "")
    yield "Only the part `train` of sets whose terms allow it is trained on. Rows labelled for each head, all parts:"
    yield ""
    yield f"| set | source | licence | rows | {' | '.join(HEADS)} |"
    yield f"| --- | --- | --- | ---: | {' | '.join('---:' for _ in HEADS)} |"
    for name, own in counts.items():
        source, licence = _source(name)
        yield f"| {name} | {source} | {licence} | {own['rows']:,} | " + " | ".join(f"{own[h]:,}" for h in HEADS) + " |"
    yield ""
    yield from (
        "- Changes made: texts were cleaned, personal data masked, long ones cut; labels mapped to those of the heads.",
        "- `topics` and `urgency` are weakly labelled by patterns but where a set's own label says it (MAMS, the "
        "intents of Banking77 and CLINC150). `intent` takes praise and complaint from the polarity of reviews, "
        "questions from service desks, the rest from patterns. Where words only hint at a label, it is left open.",
        "- `emotion` was seen in English only, `brands` in English business headlines only; reviews of restaurants, "
        "messages to a bank and `phrases` are taken to name no company.",
        "- `phrases` are templates written for this bundle; `mixed` are opinions of other sets, joined; `pieces` are "
        "sentences and clauses of English reviews, of which a teacher alone says how they sound.",
    )
    yield ""
    yield "What patterns alone find, held against sets' own labels (the head is trained on the latter there):"
    yield ""
    yield from tally.rows()


def _source(name: str) -> tuple[str, str]:
    if name in MADE_OF_OTHERS:
        return "made of sets above", "theirs"
    if name not in SETS:
        return "written for this bundle", "Apache-2.0"
    terms = SETS[name].terms
    return (terms.source, terms.licence) if terms else ("measured on only", "see there")
