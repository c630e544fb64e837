"""How each server is asked, and how its answer is read: into rows of `prob_…` columns as the scorer names them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from models.bundle import Bundle

ProbRow = Mapping[str, float]


class Dialect(Protocol):
    """A server's JSON."""

    path: str

    def body(self, texts: Sequence[str]) -> str:
        """What is sent for some texts."""

    def read(self, answer: Any) -> tuple[str, list[ProbRow]]:
        """Which bundle answered, and a row a text. `KeyError`, `TypeError` or `IndexError`: not such an answer."""


class OurDialect:
    """`POST /v1/score`; every head is asked for."""

    path = "/v1/score"

    def body(self, texts: Sequence[str]) -> str:
        """Texts in a list."""
        return json.dumps({"texts": list(texts)}, ensure_ascii=False)

    def read(self, answer: Any) -> tuple[str, list[ProbRow]]:
        """Columns as they come."""
        rows = [result["scores"] for result in answer["results"]]
        return answer["model"], [{k: v for k, v in row.items() if k.startswith("prob_")} for row in rows]


class LabelDialect:
    """A list of `{"label", "score"}` a text, as `pipeline()` and infinity give them; the bundle's first head alone."""

    def __init__(self, bundle: Bundle, path: str, texts_field: str, answer_field: str, **more: str) -> None:
        head = bundle.spec.heads[0]
        self.path = path
        self._bundle, self._texts_field, self._answer_field, self._more = str(bundle), texts_field, answer_field, more
        self._prefix = "prob_" if head.name == "sentiment" else f"prob_{head.name}_"

    def body(self, texts: Sequence[str]) -> str:
        """Texts in a list, and whatever else it wants."""
        return json.dumps({self._texts_field: list(texts), **self._more}, ensure_ascii=False)

    def read(self, answer: Any) -> tuple[str, list[ProbRow]]:
        """Name labels as the scorer names columns."""
        rows = answer[self._answer_field]
        return self._bundle, [{f"{self._prefix}{one['label']}": one["score"] for one in row} for row in rows]
