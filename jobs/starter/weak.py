"""How far patterns can be trusted: what words alone decide, held against a set's own labels, label by label.

Counted on the way, on sets whose own labels are complete; it says what to mend in a taxonomy before anything is
trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from jobs.evaluate.labels import OPEN
from jobs.starter.marks import HOLDS, Decisions

FEWEST = 10  # texts that have a label: with fewer, a share says nothing


@dataclass
class Tally:
    """Texts by set, label, what the set says and what words say."""

    counts: Counter[tuple[str, str, int, int]] = field(default_factory=Counter)

    def add(self, set_name: str, by_set: Decisions, by_words: Decisions) -> None:
        """Count one text."""
        for label, truth in by_set.items():
            self.counts[set_name, label, truth, by_words[label]] += 1

    def rows(self) -> Iterator[str]:
        """A Markdown table."""
        yield "| set | label | texts that have it | found % | left open % | right where found % |"
        yield "| --- | --- | ---: | ---: | ---: | ---: |"
        for set_name, label in dict.fromkeys((key[0], key[1]) for key in self.counts):
            yield from self._row(set_name, label)

    def _row(self, set_name: str, label: str) -> Iterator[str]:
        def num(truth: int, words: int) -> int:
            return self.counts[set_name, label, truth, words]

        texts = sum(num(HOLDS, words) for words in (HOLDS, OPEN, 0))
        told = num(HOLDS, HOLDS) + num(0, HOLDS)
        if texts >= FEWEST and told:
            shares = (num(HOLDS, HOLDS) / texts, num(HOLDS, OPEN) / texts, num(HOLDS, HOLDS) / told)
            yield f"| {set_name} | {label} | {texts:,} | " + " | ".join(f"{100 * share:.0f}" for share in shares) + " |"
