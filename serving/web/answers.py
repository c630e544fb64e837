"""Scores as plain rows for JSON: every text of a request in its place, scored or with its error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.service import Scored

FACTS = ("lang", "num_tokens", "truncated", "clean_text")


def results(scored: Scored, ids: Sequence[str | None], field: str = "texts.{}") -> list[dict[str, Any]]:
    """Give one result a text, in the request's order; an id only where one was sent.

    Parameters
    ----------
    field : what an error calls the text; `{}` is its place.
    """
    answers: list[dict[str, Any]] = [{} if one is None else {"id": one} for one in ids]
    for place, fault in scored.faults.items():
        answers[place]["error"] = {"code": fault.code, "message": fault.message, "field": field.format(place)}
    for place, row in zip(scored.rows, scored.reply.table.to_pylist(), strict=True):
        answers[place] |= {name: row.pop(name) for name in FACTS if name in row}
        answers[place]["scores"] = row
    return answers
