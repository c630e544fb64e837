"""Praise and blame in one text: short opinions of both sorts joined. Common in life, rare in the sets.

One of each counts as neutral, 2 to 4 stars. Where one side has two or three of them, that side decides. All are both a
complaint and praise. The parts of a text are of one language and one split.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

from jobs.starter.said import NEGATIVE, NEUTRAL, POSITIVE, STARS_OF, Said

LONGEST = 120  # characters of a part
TURNS = {"zh": ("，但是", "，不过", "，就是", "，", "。"), "en": (" but ", ". ", ", although ", "; ", ". However, ")}
AND = {"zh": "，", "en": ", "}
SIDES = (POSITIVE, NEGATIVE)
NUM_OF_SIDES = ((1, 1), (1, 1), (2, 1), (3, 1), (1, 2), (1, 3))
STARS_OF_MOST = {POSITIVE: "3|4", NEUTRAL: STARS_OF[NEUTRAL], NEGATIVE: "2|3"}

Parts = Mapping[str, Sequence[str]]  # texts by polarity


def joined(parts: Parts, lang: str, num: int, rng: random.Random) -> Iterator[Said]:
    """`num` texts at most; none if there is no text of one sort."""
    own = {side: [text for text in parts.get(side, ()) if len(text) <= LONGEST] for side in SIDES}
    if not all(own.values()):
        return
    for _ in range(min(num, *map(len, own.values()))):
        counts = dict(zip(SIDES, rng.choice(NUM_OF_SIDES), strict=True))
        said = [AND[lang].join(_stripped(rng.choice(own[side])) for _ in range(counts[side])) for side in SIDES]
        rng.shuffle(said)
        decides = NEUTRAL if len(set(counts.values())) == 1 else max(SIDES, key=counts.__getitem__)
        yield Said(
            rng.choice(TURNS[lang]).join(said),
            sentiment=decides,
            stars=STARS_OF_MOST[decides],
            intents={"complaint": 1, "praise": 1},
            is_complaint=True,
        )


def _stripped(text: str) -> str:
    return text.rstrip("。.!！,， ")
