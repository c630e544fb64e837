"""Clean text for the model: markup, odd characters and odd spacing out, with a way back to the customer's words.

`clean` gives the text that is scored; `clean_with_offsets` also says where each of its characters stood in the
original, so that a quote is shown verbatim. Both run the one list of rules below, until a pass changes nothing:
cleaning twice is cleaning once. Linear in the text's length: no rule looks at a character more than a bounded number of
times, and there are at most `MAX_PASSES` passes.

Texts a second on one core of a shared 2-core machine (2026-11-22), as found and then already clean: ChnSentiCorp (mean
109 characters, 86 % need something) 36,000 and 88,000; waimai (25) 91,000 and 208,000; airline tweets (104) 79,000 and
100,000; Amazon (433) 29,000 and 32,000. With offsets about 60 % of that.

Case is kept. Given up: joined emoji (families, skin tones, coloured hearts) fall into their plain single emoji, as
joiners, variation selectors and skin tones are dropped; `<iPhone 15>` is taken for a tag; NFKC's own losses (① is 1,
½ is 1⁄2).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from html import unescape
from html.entities import html5

import numpy as np
from numpy.typing import NDArray

MAX_PASSES = 8  # real text settles in two; entities or comments nested deeper than this lose every "&" and "<"
MAX_MARKS = 30  # combining marks on one letter, as in Unicode's stream-safe format (UAX 15): bounds NFKC's sorting
MAX_RUN = 3  # of one character: 哈哈哈哈哈 and 哈哈哈 are as merry. Digits are left: 10000 isn't 1000

Edit = tuple[int, int, str]  # text[start:end], never empty, becomes this
Rule = Callable[[str], Iterable[Edit]]

_DROPPED = re.compile(
    "["
    "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"  # controls but white space
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0"  # soft hyphen, joiners, blank letters
    "\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff0-\ufffc\ufffe\uffff"  # zero width, direction, notes
    "\ufe00-\ufe0f\U0001f3fb-\U0001f3ff\U000e0000-\U000e0fff"  # variation selectors, skin tones, language tags
    "\ud800-\udfff"  # halves of a character: not text, and not encodable
    "]+"
)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|([a-zA-Z][a-zA-Z0-9]{1,30}));")
_TAG = re.compile(r"<[a-zA-Z/!][^<>]{0,1000}>")
_SPACES = re.compile(r"\A\s+|\s+\Z|[^\S ]\s*| \s+")
_RUN = re.compile(rf"([^\d\s])\1{{{MAX_RUN},}}")
_MARKUP_SIGN = re.compile("[&<]")

_LAST_DECOMPOSABLE = 0x2FA1D  # no character above has a decomposition or is a combining mark, but those dropped


@dataclass(frozen=True)
class Cleaned:
    """Clean text of N characters: number i came from `original[starts[i]:ends[i]]`. Both rise, and no span is empty."""

    text: str
    starts: NDArray[np.int32]
    ends: NDArray[np.int32]


def clean(text: str) -> str:
    """Clean a text. What held nothing but markup and white space gives an empty text."""
    return _clean(text, None)


def clean_with_offsets(text: str) -> Cleaned:
    """Clean a text, and say for each character which span of the original it stands for.

    One original character may give several (㎏ is kg: both have its span), and several may give one (a run of white
    space, a letter and its accent). The middle of a run that was cut has no clean character of its own.
    """
    spans = _Spans(list(range(len(text))), list(range(1, len(text) + 1)))
    cleaned = _clean(text, spans)
    return Cleaned(cleaned, np.array(spans.starts, dtype=np.int32), np.array(spans.ends, dtype=np.int32))


@dataclass
class _Spans:
    starts: list[int]
    ends: list[int]

    def edit(self, edits: list[Edit]) -> None:
        starts: list[int] = []
        ends: list[int] = []
        position = 0
        for start, end, new in edits:
            starts += self.starts[position:start] + [self.starts[start]] * len(new)
            ends += self.ends[position:start] + [self.ends[end - 1]] * len(new)
            position = end
        self.starts = starts + self.starts[position:]
        self.ends = ends + self.ends[position:]


def _clean(text: str, spans: _Spans | None) -> str:
    for _ in range(MAX_PASSES):
        before = text
        text = _pass(text, _RULES, spans)
        if text == before:
            return text
    return _pass(text, _LAST_RULES, spans)


def _pass(text: str, rules: tuple[Rule, ...], spans: _Spans | None) -> str:
    for rule in rules:
        edits = list(rule(text))
        if edits:
            text = _edited(text, edits)
            if spans is not None:
                spans.edit(edits)
    return text


def _edited(text: str, edits: list[Edit]) -> str:
    pieces: list[str] = []
    position = 0
    for start, end, new in edits:
        pieces += (text[position:start], new)
        position = end
    pieces.append(text[position:])
    return "".join(pieces)


def _dropped(text: str) -> Iterable[Edit]:
    return [(*match.span(), "") for match in _DROPPED.finditer(text)]


def _entities(text: str) -> Iterator[Edit]:
    if "&" not in text:
        return
    for match in _ENTITY.finditer(text):
        if match[1] is None:
            yield *match.span(), unescape(match[0])
        elif f"{match[1]};" in html5:
            yield *match.span(), html5[f"{match[1]};"]


def _tags(text: str) -> Iterable[Edit]:
    return [(*match.span(), " ") for match in _TAG.finditer(text)] if "<" in text else ()


def _marks(text: str) -> Iterable[Edit]:
    if text.isascii() or not _clusters().perhaps_mark.search(text):
        return ()
    return [(match.start() + MAX_MARKS, match.end(), "") for match in _clusters().too_many_marks.finditer(text)]


def _nfkc(text: str) -> Iterator[Edit]:
    if text.isascii() or unicodedata.is_normalized("NFKC", text):
        return
    clusters = _clusters()
    pattern = clusters.changing if clusters.perhaps_mark.search(text) else clusters.changing_alone
    for match in pattern.finditer(text):
        normal = unicodedata.normalize("NFKC", match[0])
        if normal != match[0]:
            yield *match.span(), normal


def _spaces(text: str) -> Iterable[Edit]:
    if " ".join(text.split()) == text:  # much faster than the pattern, and mostly so
        return ()
    return [
        (*match.span(), " " if match.start() > 0 and match.end() < len(text) else "")
        for match in _SPACES.finditer(text)
    ]


def _runs(text: str) -> Iterable[Edit]:
    return [(match.start() + MAX_RUN, match.end(), "") for match in _RUN.finditer(text)]


def _markup_signs(text: str) -> Iterable[Edit]:
    return [(*match.span(), " ") for match in _MARKUP_SIGN.finditer(text)]


_RULES: tuple[Rule, ...] = (_dropped, _entities, _tags, _marks, _nfkc, _marks, _spaces, _runs)
_LAST_RULES: tuple[Rule, ...] = (_dropped, _marks, _nfkc, _marks, _markup_signs, _spaces, _runs)  # settles in one pass


@dataclass(frozen=True)
class _Clusters:
    """Patterns over clusters: a character and the marks after it. NFKC never looks across their borders.

    What lies beyond U+FFFF is slow to look up in a pattern, so the two that run on every text take all of it for a
    candidate: `perhaps_mark`, and `changing_alone`, which is `changing` for texts without a mark.
    """

    perhaps_mark: re.Pattern[str]
    too_many_marks: re.Pattern[str]
    changing: re.Pattern[str]
    changing_alone: re.Pattern[str]


@cache
def _clusters() -> _Clusters:
    """Read the two character classes off Python's own Unicode tables, once a process (0.1 s)."""
    characters = [c for c in map(chr, range(0x80, _LAST_DECOMPOSABLE + 1)) if unicodedata.category(c) != "Cs"]
    # Not only accents: also letters that compose with the one before (Hangul vowels), and compatible forms of either.
    seconds = {second for c in characters for second in unicodedata.normalize("NFD", c)[1:]}
    marks = [c for c in characters if _attaches(unicodedata.normalize("NFKD", c)[0], seconds)]
    changed = [c for c in characters if ord(c) < 0x10000 and not unicodedata.is_normalized("NFKC", c)]
    mark, beyond = _ranges(marks), "\U00010000-\U0010ffff"
    return _Clusters(
        perhaps_mark=re.compile(f"[{_ranges(c for c in marks if ord(c) < 0x10000)}{beyond}]"),
        too_many_marks=re.compile(f"[{mark}]{{{MAX_MARKS + 1},}}"),
        changing=re.compile(f"[{_ranges(changed)}{beyond}][{mark}]*|[^{mark}]?[{mark}]+"),
        changing_alone=re.compile(f"[{_ranges(changed)}{beyond}]"),
    )


def _ranges(characters: Iterable[str]) -> str:
    """Write rising characters as the ranges of a character class."""
    ranges: list[list[str]] = []
    for character in characters:
        if ranges and ord(character) == ord(ranges[-1][1]) + 1:
            ranges[-1][1] = character
        else:
            ranges.append([character, character])
    return "".join(f"{first}-{last}" for first, last in ranges)


def _attaches(character: str, seconds: set[str]) -> bool:
    return unicodedata.combining(character) > 0 or character in seconds
