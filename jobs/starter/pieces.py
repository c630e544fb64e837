"""Pieces of reviews, without labels: a teacher's answers to them are what they teach.

A label holds for a whole review, not for each of its sentences; a teacher tells which. Cut are texts of several
sentences into these, and a single sentence into its clauses. A piece is of its text's split.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

SHORTEST, LONGEST = 12, 240  # characters of a piece
_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?])\s+")
_BETWEEN_CLAUSES = re.compile(r"\s*[,;:]\s+|\s+(?:--|but)\s+")


def pieces(texts: Sequence[str], num: int, rng: random.Random) -> Iterator[str]:
    """`num` different pieces at most."""
    found = list(dict.fromkeys(piece for text in texts for piece in _cut(text) if SHORTEST <= len(piece) <= LONGEST))
    yield from rng.sample(found, min(num, len(found)))


def _cut(text: str) -> list[str]:
    """Nothing where there is only one piece, as that is the text."""
    sentences = _BETWEEN_SENTENCES.split(text)
    own = sentences if len(sentences) > 1 else _BETWEEN_CLAUSES.split(text)
    return own if len(own) > 1 else []
