"""Heads: small linear layers on the pooled vector, all read off one forward pass, and the columns they give.

A head's kind says how its logits become columns:
`single`  one label of several (softmax): the column `<head>` holds the likeliest label;
`ordinal` grades that stand for numbers (softmax): the column `<head>` holds the expected value.
Both add `prob_<label>` (sentiment) or `prob_<head>_<label>` (every other head), calibrated by one temperature
(Guo et al. 2017, section 4.2), and they sum to 1.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SENTIMENT = "sentiment"
SENTIMENT_LABELS = ("negative", "neutral", "positive")


class HeadSpec(BaseModel):
    """What a head is called, what it can answer, and how sure it may sound."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern="^[a-z][a-z0-9_]*$")
    kind: Literal["single", "ordinal"] = "single"
    labels: tuple[str, ...] = Field(min_length=2)
    temperature: float = Field(default=1.0, gt=0)

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) != len(labels):
            raise ValueError(f"labels must differ from each other, got {list(labels)}")
        return labels

    @model_validator(mode="after")
    def _grades_are_numbers(self) -> HeadSpec:
        if self.kind == "ordinal":
            self.grades()
        return self

    def grades(self) -> NDArray[np.float32]:
        """(C,) the numbers that an ordinal head's labels stand for."""
        try:
            return np.array([float(label) for label in self.labels], dtype=np.float32)
        except ValueError as error:
            raise ValueError(f"head {self.name} is ordinal: labels must be numbers, got {list(self.labels)}") from error

    @property
    def schema(self) -> pa.Schema:
        """The columns this head gives, in order."""
        answer = pa.string() if self.kind == "single" else pa.float32()
        return pa.schema([(self.name, answer), *((name, pa.float32()) for name in self.prob_columns)])

    @property
    def prob_columns(self) -> tuple[str, ...]:
        """One column name a label; the sentiment head's always start with negative, neutral, positive."""
        if self.name == SENTIMENT:
            return tuple(f"prob_{label}" for label in SENTIMENT_LABELS)
        return tuple(f"prob_{self.name}_{label}" for label in self.labels)

    def columns(self, logits_bc: NDArray[np.float32]) -> list[pa.Array]:
        """Turn raw logits, B x C, into this head's columns, B long.

        A sentiment head that doesn't know one of negative, neutral, positive leaves that column null.
        """
        probs = _softmax(logits_bc / np.float32(self.temperature))
        by_label = {label: pa.array(probs[:, index]) for index, label in enumerate(self.labels)}
        wanted = SENTIMENT_LABELS if self.name == SENTIMENT else self.labels
        absent = pa.nulls(len(probs), pa.float32())
        return [self._answer(probs), *(by_label.get(label, absent) for label in wanted)]

    def _answer(self, probs: NDArray[np.float32]) -> pa.Array:
        if self.kind == "ordinal":
            return pa.array(probs @ self.grades(), pa.float32())
        return pa.array(self.labels).take(pa.array(probs.argmax(axis=1)))


def _softmax(logits_bc: NDArray[np.float32]) -> NDArray[np.float32]:
    """Row by row, safe against overflow."""
    powers = np.exp(logits_bc - logits_bc.max(axis=1, keepdims=True, initial=-np.inf))
    probs: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return probs
