"""Weak labels: what a taxonomy decides of a text. A label holds, doesn't, or is left open: nobody can know.

A set's own label outranks patterns. Three values instead of two are what keeps weak labels honest: where a word only
hints at a label, training learns nothing, instead of learning the expression's blind spots as truth.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from jobs.evaluate.labels import OPEN
from jobs.starter.taxonomy import Label, Taxonomy

HOLDS, ABSENT = 1, 0
Decisions = Mapping[str, int]  # by label: HOLDS, ABSENT or OPEN


class Marker:
    """What a taxonomy decides of texts."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        self._taxonomy = taxonomy

    def by_words(self, text: str, targets: Iterable[str] = ()) -> Decisions:
        """What the words say. `targets` are the pieces of the text that opinions are known to be about."""
        plain, aims = _plain(text), [_plain(target) for target in targets]
        return {label.name: _decide(label, plain, aims) for label in self._taxonomy.labels}

    def by_set(self, name: str, values: Collection[str]) -> Decisions:
        """What the set's own label says: of each label that it can mean, and no other."""
        source = self._taxonomy.sources.get(name, {})
        held = {label: HOLDS for label, meaning in source.items() if not set(meaning).isdisjoint(values)}
        absent = dict.fromkeys(source, ABSENT) if name in self._taxonomy.complete else {}
        return {**absent, **held}


def _decide(label: Label, text: str, targets: Iterable[str]) -> int:
    """A label that has no words is always open."""
    if not label.patterns and not label.hints:
        return OPEN
    if label.patterns.find(text) or any(label.hints.find(target) for target in targets):
        return HOLDS
    return OPEN if label.hints.find(text) else ABSENT


def _plain(text: str) -> str:
    return text.lower().replace("’", "'")


def level(decisions: Decisions, names: tuple[str, ...], *, is_complaint: bool | None) -> str | None:
    """Which of graded labels, lowest first, a text has: one, several that are possible (`low|medium`), None if any.

    Parameters
    ----------
    is_complaint : None where nobody knows.
    """
    held = [name for name in names if decisions.get(name) == HOLDS]
    if held:
        return held[-1]
    is_hinted = any(decisions.get(name) == OPEN for name in names[1:])
    if is_complaint is False:
        return names[0] if not is_hinted else "|".join(names[:2])
    return None if is_hinted else "|".join(names[:2])
