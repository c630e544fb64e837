"""Heads: small linear layers on what the trunk gives, all read off one forward pass, and the columns they give.

A head's kind says what it reads and how its outputs become columns:
`single`     one label of several (softmax): the column `<head>` holds the likeliest label;
`ordinal`    grades that stand for numbers (softmax): the column `<head>` holds the expected value;
`multi`      labels that don't exclude each other (sigmoids): `<head>` lists those of a probability over `threshold`;
`token`      an IOB tag for each token: `<head>` lists the spans they make, in characters of the clean text; `scheme`
             says whether the tags are held to IOB2 (`models.tags`);
`embedding`  no labels: `<head>` holds the text's vector of `size` numbers, of length 1 if `normalise`.
The first three add `prob_<label>` (sentiment) or `prob_<head>_<label>` (every other head), which are calibrated by one
temperature (Guo et al. 2017, section 4.2) and, but for `multi`, sum to 1. `pooling` says which vector of a text they
and `embedding` read. Fields that aren't of a head's kind are errors, and aren't written to `bundle.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from models.architecture import Pooling
from models.tags import SPANS, Scheme, find_spans, tag_names
from models.tokeniser import Tokens

SENTIMENT = "sentiment"
SENTIMENT_LABELS = ("negative", "neutral", "positive")
Kind = Literal["single", "ordinal", "multi", "token", "embedding"]
_EVERY_KIND = {"name", "kind"}
_FIELDS: dict[Kind, set[str]] = {
    "single": {"labels", "temperature", "pooling"},
    "ordinal": {"labels", "temperature", "pooling"},
    "multi": {"labels", "temperature", "pooling", "threshold"},
    "token": {"labels", "temperature", "scheme"},
    "embedding": {"pooling", "size", "normalise"},
}
_MIN_LABELS: dict[Kind, int] = {"single": 2, "ordinal": 2, "multi": 1, "token": 2, "embedding": 0}


class HeadSpec(BaseModel):
    """What a head is called, what it can answer, and how sure it may sound."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern="^[a-z][a-z0-9_]*$")
    kind: Kind = "single"
    labels: tuple[str, ...] = ()
    temperature: float = Field(default=1.0, gt=0)
    pooling: Pooling = "pooler"
    threshold: float = Field(default=0.5, gt=0, lt=1)
    size: int = Field(default=0, ge=0)  # of an embedding
    normalise: bool = False
    scheme: Scheme | None = None

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) != len(labels):
            raise ValueError(f"labels must differ from each other, got {list(labels)}")
        return labels

    @model_validator(mode="after")
    def _fits_its_kind(self) -> HeadSpec:
        if strange := self.model_fields_set - _EVERY_KIND - _FIELDS[self.kind]:
            raise ValueError(f"head {self.name} is {self.kind}: it has no {', '.join(sorted(strange))}")
        if len(self.labels) < _MIN_LABELS[self.kind]:
            raise ValueError(f"head {self.name}: labels must be at least {_MIN_LABELS[self.kind]}, got {self.labels}")
        if self.name == SENTIMENT and self.kind != "single":
            raise ValueError(f"head {self.name} must be of kind single, got {self.kind}")
        if self.kind == "ordinal":
            self.grades()
        if self.kind == "token" and not tag_names(self.labels):
            raise ValueError(f"head {self.name}: labels must hold a tag such as B-x, got {list(self.labels)}")
        if self.scheme and (lacking := {f"B-{name}" for name in tag_names(self.labels)} - set(self.labels)):
            raise ValueError(
                f"head {self.name}: in {self.scheme} every span begins with a B-, but {lacking} is missing"
            )
        if self.kind == "embedding" and not self.size:
            raise ValueError(f"head {self.name}: size must be the number of the vector's components, got {self.size}")
        return self

    @model_serializer(mode="wrap")
    def _own_fields(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        own = _EVERY_KIND | _FIELDS[self.kind]
        return {name: value for name, value in serialise(self).items() if name in own}

    def grades(self) -> NDArray[np.float32]:
        """(C,) the numbers that an ordinal head's labels stand for."""
        try:
            return np.array([float(label) for label in self.labels], dtype=np.float32)
        except ValueError as error:
            raise ValueError(f"head {self.name} is ordinal: labels must be numbers, got {list(self.labels)}") from error

    @property
    def reads_tokens(self) -> bool:
        """Whether it has an output for every token, T x C; else for every text, B x C."""
        return self.kind == "token"

    @property
    def num_outputs(self) -> int:
        """C: labels, or the components of an embedding."""
        return self.size if self.kind == "embedding" else len(self.labels)

    @property
    def schema(self) -> pa.Schema:
        """The columns this head gives, in order."""
        answer = {
            "single": pa.string(),
            "ordinal": pa.float32(),
            "multi": pa.list_(pa.string()),
            "token": SPANS,
            "embedding": pa.list_(pa.float32(), self.size),
        }[self.kind]
        return pa.schema([(self.name, answer), *((name, pa.float32()) for name in self.prob_columns)])

    @property
    def prob_columns(self) -> tuple[str, ...]:
        """One column name a label; the sentiment head's always start with negative, neutral, positive."""
        if self.name == SENTIMENT:
            return tuple(f"prob_{label}" for label in SENTIMENT_LABELS)
        if self.kind in ("token", "embedding"):
            return ()
        return tuple(f"prob_{self.name}_{label}" for label in self.labels)

    def columns(self, outputs: NDArray[np.float32], tokens: Tokens) -> list[pa.Array]:
        """Turn raw outputs, B x C or T x C, into this head's columns, B long.

        A sentiment head that doesn't know one of negative, neutral, positive leaves that column null.
        """
        if self.kind == "embedding":
            return [_vectors(outputs, self.normalise)]
        logits = outputs / np.float32(self.temperature)
        if self.kind == "token":
            return [find_spans(self.labels, _softmax(logits), tokens, self.scheme)]
        if self.kind == "multi":
            probs_bc = _sigmoid(logits)
            return [self._chosen(probs_bc), *(pa.array(column) for column in probs_bc.T)]
        probs_bc = _softmax(logits)
        by_label = {label: pa.array(probs_bc[:, index]) for index, label in enumerate(self.labels)}
        wanted = SENTIMENT_LABELS if self.name == SENTIMENT else self.labels
        absent = pa.nulls(len(probs_bc), pa.float32())
        return [self._answer(probs_bc), *(by_label.get(label, absent) for label in wanted)]

    def _answer(self, probs_bc: NDArray[np.float32]) -> pa.Array:
        if self.kind == "ordinal":
            # No matrix product: of few columns OpenBLAS reads beyond them, and a NaN there raises numpy's warning.
            return pa.array((probs_bc * self.grades()).sum(axis=1), pa.float32())
        return pa.array(self.labels).take(pa.array(probs_bc.argmax(axis=1)))

    def _chosen(self, probs_bc: NDArray[np.float32]) -> pa.ListArray:
        """The labels over the threshold, in their order."""
        is_over = probs_bc > self.threshold
        ends = np.cumsum(is_over.sum(axis=1))
        labels = pa.array(self.labels).take(pa.array(np.nonzero(is_over)[1]))
        return pa.ListArray.from_arrays(pa.array(np.append(0, ends), pa.int32()), labels)


def need_offsets(heads: Iterable[HeadSpec]) -> bool:
    """Whether texts must be tokenised with offsets for these heads."""
    return any(head.reads_tokens for head in heads)


def _vectors(vectors_bd: NDArray[np.float32], normalise: bool) -> pa.FixedSizeListArray:
    if normalise:
        lengths = np.linalg.norm(vectors_bd, axis=1, keepdims=True)
        vectors_bd = vectors_bd / np.maximum(lengths, np.float32(1e-12))
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors_bd.reshape(-1)), vectors_bd.shape[1])


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Row by row, safe against overflow."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    probs: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return probs


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each for itself, safe against overflow."""
    return ((1 + np.tanh(logits / 2)) / 2).astype(np.float32)
