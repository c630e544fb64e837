"""Which words moved a score: leave out each in turn and see what the score loses (occlusion).

Works for every bundle and head, needs no gradients, and is the same forward pass as scoring: all the shortened texts of
one question go through the batcher as one request. A word is a run of letters and digits, or one Han character or kana;
a text of more words than `MAX_SPANS` is cut into as many runs of neighbouring words. Given up: words that only matter
together (a doubled "not bad, not bad") each show little effect.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from models.clean import Cleaned
from models.heads import HeadSpec
from serving.errors import RequestError
from serving.wire import Attribution

METHOD = "occlusion"
MAX_SPANS = 128
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]"
    r"|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]+(?:['’][^\W_]+)*"
)


@dataclass(frozen=True)
class Span:
    """`start:end` of the clean text."""

    start: int
    end: int


def spans(text: str) -> list[Span]:
    """Cut a clean text into words, or into at most `MAX_SPANS` runs of them. Signs alone are left out."""
    words = [Span(*match.span()) for match in _WORD.finditer(text)]
    if len(words) <= MAX_SPANS:
        return words
    runs = np.array_split(np.arange(len(words)), MAX_SPANS)
    return [Span(words[run[0]].start, words[run[-1]].end) for run in runs]


def without(text: str, span: Span) -> str:
    """The text with a span left out."""
    return text[: span.start] + text[span.end :]


def target(heads: tuple[HeadSpec, ...], head: str | None, label: str | None, row: dict[str, object]) -> tuple[str, str]:
    """Give the head, and the column of scores that is to be explained.

    Without a label that is the likeliest label's probability, or an ordinal head's expected value.

    Raises
    ------
    RequestError : no such head or label, or a head whose answer is no number.
    """
    by_name = {one.name: one for one in heads if _explainable(one)}
    spec = next(iter(by_name.values()), None) if head is None else by_name.get(head)
    if spec is None:
        raise RequestError("invalid_request", f"head must be one of {sorted(by_name)}", field="head")
    if label is not None:
        if label not in spec.labels:
            raise RequestError("invalid_request", f"label must be one of {list(spec.labels)}", field="label")
        return spec.name, _column_of(spec, label)
    if pa.types.is_floating(spec.schema.field(spec.name).type):
        return spec.name, spec.name
    return spec.name, max((_column_of(spec, name) for name in spec.labels), key=lambda name: _number(row[name]))


def attributions(original: str, cleaned: Cleaned, cut: list[Span], effects: list[float]) -> list[Attribution]:
    """Pair spans with their effects, the strongest first; positions are those of the text as it was sent."""
    places = [(int(cleaned.starts[span.start]), int(cleaned.ends[span.end - 1])) for span in cut]
    paired = zip(places, effects, strict=True)
    found = [Attribution(start, end, original[start:end], effect) for (start, end), effect in paired]
    return sorted(found, key=lambda one: -abs(one.effect))


def _explainable(head: HeadSpec) -> bool:
    return bool(head.prob_columns) and all(
        f"prob_{label}" in head.schema.names or f"prob_{head.name}_{label}" in head.schema.names
        for label in head.labels
    )


def _column_of(head: HeadSpec, label: str) -> str:
    own = f"prob_{head.name}_{label}"
    return own if own in head.schema.names else f"prob_{label}"


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("-inf")
