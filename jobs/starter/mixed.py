"""Praise and blame in one text: short opinions of both sorts joined in pairs. Common in life, rare in the sets.

Such a text counts as neutral, 2 to 4 stars, and is both a complaint and praise. Parts of the pair are of one language
and one split.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

from jobs.starter.said import NEUTRAL, STARS_OF, Said

LONGEST = 120  # characters of a part
JOINTS = {"zh": ("，但是", "，不过", "，就是", "，", "。"), "en": (" but ", ". ", ", although ", "; ", ". However, ")}

Parts = Mapping[str, Sequence[str]]  # texts by polarity


def joined(parts: Parts, lang: str, num: int, rng: random.Random) -> Iterator[Said]:
    """`num` pairs at most; none if there is no text of one sort."""
    sides = [[text for text in parts.get(side, ()) if len(text) <= LONGEST] for side in ("positive", "negative")]
    if not all(sides):
        return
    for _ in range(min(num, *map(len, sides))):
        pair = [rng.choice(side).rstrip("。.!！,， ") for side in sides]
        rng.shuffle(pair)
        text = rng.choice(JOINTS[lang]).join(pair)
        yield Said(
            text, sentiment=NEUTRAL, stars=STARS_OF[NEUTRAL], intents={"complaint": 1, "praise": 1}, is_complaint=True
        )
