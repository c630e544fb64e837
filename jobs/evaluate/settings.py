"""Settings of an evaluation: what stands in its YAML.

The least for a file of one's own (`text,label`): `bundle`, `output`, and
`sets: {mine: {input: my.csv, labels: {sentiment: label}}}`. Sets are a mapping, so that names are unique and an
override can reach into one: `sets.mine.input=other.csv`.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator

from cluster.config import Settings

SET_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"


def as_text(value: Any) -> str:
    """One spelling for a label, whatever type a file or a YAML gives it: 1, 1.0 and "1" are `1`, True is `true`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


class LabelSettings(Settings):
    """Where a head's labels stand, and which of the head's labels a value means."""

    column: str = Field(min_length=1)
    values: dict[str, str | None] = Field(default={}, description="null leaves rows of that value out")
    separator: str | None = Field(default=None, min_length=1, description="of several labels in one cell; None: JSON")
    any_of: bool = Field(default=False, description="of one label a text: `4|5` says that it is one of both")
    open_mark: str | None = Field(default=None, min_length=1, description="of several labels: `?price` leaves it open")

    @field_validator("values", mode="before")
    @classmethod
    def _values_as_text(cls, values: Any) -> Any:
        """YAML reads `1: 5` as numbers and `yes` as a truth value; labels are text."""
        if not isinstance(values, dict):
            return values
        return {as_text(found): None if label is None else as_text(label) for found, label in values.items()}


class SplitSettings(Settings):
    """Which rows are evaluated: those whose `column` holds `value`."""

    column: str = Field(default="split", min_length=1)
    value: str = "dev"


class SetSettings(Settings):
    """One set of texts. Without labels it serves the precision gate alone."""

    input: str = Field(min_length=1)
    format: Literal["auto", "parquet", "jsonl", "csv"] = "auto"
    id: str | None = Field(default=None, min_length=1, description="None: rows are named by their place")
    text: str = Field(default="text", min_length=1)
    labels: dict[str, LabelSettings] = Field(default={}, description="by head; `head: column` for short")
    split: SplitSettings | None = Field(default=None, description="None: every row is evaluated")
    slices: list[str] = Field(default=[], description="columns by whose values figures are also given")
    time: str | None = Field(default=None, min_length=1, description="column of times, for figures by quarter")

    @field_validator("labels", mode="before")
    @classmethod
    def _column_for_short(cls, labels: Any) -> Any:
        if not isinstance(labels, dict):
            return labels
        return {head: {"column": label} if isinstance(label, str) else label for head, label in labels.items()}


class BaselineSettings(Settings):
    """The traditional method, trained in the same run on the rows whose split has this value."""

    train_split: str = "train"


class EvaluateSettings(Settings):
    """Everything that `python -m jobs.evaluate` can be told. `bundle`, `output` and `sets` have no default."""

    bundle: str = Field(min_length=1)
    output: str = Field(min_length=1)
    sets: dict[str, SetSettings] = Field(min_length=1)
    skip_missing_heads: bool = Field(default=False, description="leave out labels of heads that the bundle hasn't")
    compare_with: str | None = Field(default=None, min_length=1, description="another bundle")
    precisions: list[str] = Field(default=[], description="each is held against fp32 and its record is written")
    baseline: BaselineSettings | None = None
    gate: dict[str, dict[str, dict[str, float]]] = Field(
        default={}, description="set, head, metric: what it must reach"
    )
    max_texts: int | None = Field(default=None, ge=1, description="of a set's evaluated rows, drawn by the seed")
    seed: int = Field(default=0, ge=0)
    token_budget: int = Field(default=4096, ge=1)
    threads: int | None = Field(default=None, ge=1, description="cores that compute; None: all of them")
    device: Literal["cpu", "cuda"] = "cpu"
    price_per_hour: float | None = Field(default=None, ge=0, description="of this machine, in any currency")

    @field_validator("sets")
    @classmethod
    def _names_can_be_said(cls, sets: dict[str, SetSettings]) -> dict[str, SetSettings]:
        for name in sets:
            if not re.match(SET_NAME, name):
                raise ValueError(f"a set's name must be letters, digits, - and _, got {name!r}")
        return sets

    @field_validator("precisions")
    @classmethod
    def _not_the_reference(cls, precisions: list[str]) -> list[str]:
        if "fp32" in precisions:
            raise ValueError("fp32 is what the others are held against: leave it out")
        if len(set(precisions)) != len(precisions):
            raise ValueError(f"each precision once, got {precisions}")
        return precisions
