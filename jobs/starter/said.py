"""What a public set says of one text: its own labels in one vocabulary, before anything is weakly labelled.

None, or an absent key, is always `nobody knows`, never `no`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

NEGATIVE, NEUTRAL, POSITIVE = "negative", "neutral", "positive"
STARS_OF = {NEGATIVE: "1|2", NEUTRAL: "2|3|4", POSITIVE: "4|5"}  # what a polarity leaves of five stars

Spans = frozenset[tuple[int, int, str]]  # in characters of the text as found


@dataclass(frozen=True)
class Said:
    """One text and what its set says.

    stars : a grade, or those that aren't wrong (`4|5`).
    values : values of the set's own label, for the sources of a taxonomy; None: it has none.
    targets : pieces of the text that opinions are about.
    intents : which the text has (1) and hasn't (0).
    topics : which it is known to be about (1) and not about (0).
    urgency : its level; `is_complaint` bounds it where it isn't known.
    """

    text: str
    sentiment: str | None = None
    stars: str | None = None
    values: tuple[str, ...] | None = None
    targets: tuple[str, ...] = ()
    intents: Mapping[str, int] = field(default_factory=dict)
    topics: Mapping[str, int] = field(default_factory=dict)
    urgency: str | None = None
    emotion: tuple[str, ...] | None = None
    aspects: Spans | None = None
    brands: Spans | None = None
    is_complaint: bool | None = None


def agreed(polarities: Iterable[str]) -> str | None:
    """The one polarity of all opinions, neutral where they differ, None where there is none."""
    found = set(polarities)
    found = found - {NEUTRAL} or found
    if not found:
        return None
    return found.pop() if len(found) == 1 else NEUTRAL


def review(text: str, sentiment: str | None) -> Said:
    """A review, whose polarity bounds its stars and is praise or complaint; a mixed one may be both."""
    return Said(
        text,
        sentiment=sentiment,
        stars=STARS_OF.get(sentiment or ""),
        intents=intents_of(sentiment),
        is_complaint={NEGATIVE: True, POSITIVE: False}.get(sentiment or ""),
    )


def intents_of(sentiment: str | None) -> dict[str, int]:
    """Praise or complaint, as far as a polarity tells."""
    if sentiment in (NEGATIVE, POSITIVE):
        return {"complaint": int(sentiment == NEGATIVE), "praise": int(sentiment == POSITIVE)}
    return {}
