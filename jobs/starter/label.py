"""One labelled row: what a set says of a text and what patterns add, as cells that fine-tuning and evaluation read.

Columns out: `id, text, lang, split`, and for each head a column, null where nothing is known. `stars` and `urgency` may
allow several answers (`4|5`); in `topics` and `intent` a label is left open by a `?` before it. `real_topics` is what
the set's own label says, with all else left open: to measure on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from jobs.evaluate.labels import OPEN
from jobs.finetune.spans import Spans, moved_to_masked
from jobs.starter.marks import HOLDS, Decisions, Marker, level
from jobs.starter.said import Said
from jobs.starter.taxonomy import Taxonomy
from models.clean import clean
from models.masking import mask

OPEN_MARK = "?"
_SPANS = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("label", pa.string())]))
_LABELS = pa.list_(pa.string())
HEADS: Mapping[str, pa.DataType] = {
    "sentiment": pa.string(),
    "stars": pa.string(),
    "topics": _LABELS,
    "intent": _LABELS,
    "urgency": pa.string(),
    "emotion": _LABELS,
    "aspects": _SPANS,
    "brands": _SPANS,
}
REAL_TOPICS = "real_topics"
SCHEMA = pa.schema(
    [*((name, pa.string()) for name in ("id", "text", "lang", "split")), *HEADS.items(), (REAL_TOPICS, _LABELS)]
)


@dataclass(frozen=True)
class Origin:
    """Where a text comes from."""

    set_name: str
    is_feedback: bool


class Labeller:
    """The three weakly labelled heads' taxonomies, and the way from what is said to cells."""

    def __init__(self, topics: Taxonomy, intents: Taxonomy, urgency: Taxonomy) -> None:
        self._names = {"topics": topics.names, "intent": intents.names, "urgency": urgency.names}
        self.markers = {"topics": Marker(topics), "intent": Marker(intents), "urgency": Marker(urgency)}

    def row(self, said: Said, origin: Origin, limit: int) -> dict[str, Any] | None:
        """Text, clean, masked and cut, and the cells of all heads; None if nothing is left of the text."""
        text = mask(clean(said.text))[:limit]
        if not text:
            return None
        return {
            "text": text,
            "sentiment": said.sentiment,
            "stars": said.stars,
            "topics": self._cell("topics", said, origin, said.topics),
            "intent": self._cell("intent", said, origin, said.intents),
            "urgency": self._urgency(said, origin),
            "emotion": None if said.emotion is None else list(said.emotion),
            "aspects": _spans(said.aspects, said.text, limit),
            "brands": _spans(said.brands, said.text, limit),
            REAL_TOPICS: self._cell("topics", said, Origin(origin.set_name, is_feedback=False), said.topics),
        }

    def decisions(self, head: str, said: Said, origin: Origin) -> Decisions:
        """By the set's own label, else by words, else open."""
        marker = self.markers[head]
        by_words = marker.by_words(said.text, said.targets) if origin.is_feedback else {}
        by_set = marker.by_set(origin.set_name, said.values or ()) if said.values is not None else {}
        return {**dict.fromkeys(self._names[head], OPEN), **by_words, **by_set}

    def _cell(self, head: str, said: Said, origin: Origin, own: Decisions) -> list[str] | None:
        known = {label: decision for label, decision in own.items() if label in self._names[head]}
        decisions = {**self.decisions(head, said, origin), **known}
        if all(decision == OPEN for decision in decisions.values()):
            return None
        mark = {HOLDS: "", OPEN: OPEN_MARK}
        return [f"{mark[decision]}{label}" for label, decision in decisions.items() if decision in mark]

    def _urgency(self, said: Said, origin: Origin) -> str | None:
        if said.urgency is not None or not origin.is_feedback:
            return said.urgency
        decisions = self.decisions("urgency", said, origin)
        return level(decisions, self._names["urgency"], is_complaint=said.is_complaint)


def _spans(spans: Spans | None, raw: str, limit: int) -> list[dict[str, Any]] | None:
    if spans is None:
        return None
    moved = sorted(moved_to_masked(spans, raw)) if spans else []
    return [{"start": start, "end": end, "label": label} for start, end, label in moved if end <= limit]
