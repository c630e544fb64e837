"""Texts written for this purpose, because no set has them: what customers ask a service desk in Chinese, and the like.

The file gives templates in groups that share their labels; the notation is that of the demo's phrases: `(a|b|c)` takes
one alternative, `<name>` one of the slots. Templates under `dev` are other wordings, which nothing is trained on. All
labels of a group are certain: a topic or intent that it doesn't name doesn't hold, but a topic under `maybe` is open.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from cluster.config import Settings, load_config
from jobs.demo.phrases import Phrases
from jobs.starter.said import Said

ATTEMPTS = 4  # expansions tried for each one wanted: short templates have few


class PhraseGroup(Settings):
    """Templates of one meaning. `each` overrides the file's; nobody knows the topics under `maybe`."""

    each: int | None = Field(default=None, ge=1)
    lang: str
    sentiment: str
    urgency: str
    intents: list[str] = Field(default=[])
    topics: list[str] = Field(default=[])
    maybe: list[str] = Field(default=[])
    train: list[str] = Field(min_length=1)
    dev: list[str] = Field(default=[])


class PhraseFile(Settings):
    """The file: how many texts each template gives at most, slots by language, groups."""

    each: int = Field(ge=1)
    slots: dict[str, dict[str, list[str]]]
    groups: list[PhraseGroup] = Field(min_length=1)


def written(
    path: Path, topics: tuple[str, ...], intents: tuple[str, ...], seed: int
) -> Iterator[tuple[Said, str, str]]:
    """All texts with their language and split, each text once.

    Raises
    ------
    SettingsError : the file can't be read, or a field is wrong.
    """
    file, rng = load_config(path, [], PhraseFile), random.Random(seed)  # noqa: S311 - no secret
    seen: set[str] = set()
    for group in file.groups:
        for split, templates in (("train", group.train), ("dev", group.dev)):
            for template in templates:
                for text in _expand(template, file, group, rng):
                    if text not in seen:
                        seen.add(text)
                        yield _said(text, group, topics, intents), group.lang, split


def _expand(template: str, file: PhraseFile, group: PhraseGroup, rng: random.Random) -> Iterator[str]:
    lists = {"template": (template,)} | {
        f"slots.{name}": tuple(slot) for name, slot in file.slots.get(group.lang, {}).items()
    }
    phrases, most = Phrases(group.lang, lists), group.each or file.each
    tried = (phrases.say(rng, "template") for _ in range(most * ATTEMPTS))
    yield from list(dict.fromkeys(tried))[:most]


def _said(text: str, group: PhraseGroup, topics: tuple[str, ...], intents: tuple[str, ...]) -> Said:
    return Said(
        text,
        sentiment=group.sentiment,
        topics={name: int(name in group.topics) for name in topics if name not in group.maybe},
        intents={name: int(name in group.intents) for name in intents},
        urgency=group.urgency,
        brands=frozenset(),
    )
