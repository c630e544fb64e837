"""The YAML that says which labels a weakly labelled head has, how to show them, and how a text gets them.

A form for topics, intents and urgency alike; `taxonomy.yaml` explains it. It is data, so that users replace it: every
name and every expression is checked when it is read, and an error names the field and what it holds.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator, model_validator

from cluster.config import Settings, load_config


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return pattern


Pattern = Annotated[str, Field(min_length=1), AfterValidator(_compiles)]


class Patterns(Settings):
    """Regular expressions by language; English ones stand for whole words."""

    zh: list[Pattern] = Field(default=[])
    en: list[Pattern] = Field(default=[])

    def __bool__(self) -> bool:
        return bool(self.zh or self.en)

    def find(self, text: str) -> bool:
        """Whether one matches a text in lower case."""
        zh, en = self._compiled
        return bool((zh and not text.isascii() and zh.search(text)) or (en and en.search(text)))

    @cached_property
    def _compiled(self) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
        zh, en = ("|".join(f"(?:{pattern})" for pattern in own) for own in (self.zh, self.en))
        return re.compile(zh) if zh else None, re.compile(rf"(?<!\w)(?:{en})(?!\w)") if en else None


class Group(Settings):
    """The upper level: names to show."""

    zh: str
    en: str


class Label(Settings):
    """One label: its name in columns, names to show, its group, and what in a text tells it."""

    name: str = Field(pattern="^[a-z][a-z0-9_]*$")
    parent: str | None = None
    zh: str
    en: str
    patterns: Patterns = Patterns()
    hints: Patterns = Patterns()


class Taxonomy(Settings):
    """The labels of a head, and which of them the values of a set's own label mean, by set and label."""

    groups: dict[str, Group] = Field(default={})
    labels: list[Label] = Field(min_length=2)
    complete: list[str] = Field(default=[])
    sources: dict[str, dict[str, list[str]]] = Field(default={})

    @field_validator("labels")
    @classmethod
    def _names_differ(cls, labels: list[Label]) -> list[Label]:
        if twice := [name for name, count in Counter(label.name for label in labels).items() if count > 1]:
            raise ValueError(f"each name once, but {', '.join(twice)} stands there twice")
        return labels

    @model_validator(mode="after")
    def _refers_to_what_is_there(self) -> Taxonomy:
        for label in self.labels:
            if label.parent is not None and label.parent not in self.groups:
                known = ", ".join(self.groups)
                raise ValueError(f"labels: {label.name} has the parent {label.parent!r}; groups are {known or 'none'}")
        for name, values in self.sources.items():
            if unknown := sorted(values.keys() - set(self.names)):
                raise ValueError(f"sources.{name}: no such label: {unknown}; labels are {list(self.names)}")
        if unknown := sorted(set(self.complete) - self.sources.keys()):
            raise ValueError(f"complete: no such set under sources: {unknown}")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The head's labels."""
        return tuple(label.name for label in self.labels)


def read_taxonomy(path: Path) -> Taxonomy:
    """Read and check the file.

    Raises
    ------
    SettingsError : names the field, its value and what would be right.
    """
    return load_config(path, [], Taxonomy)
