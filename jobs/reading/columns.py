"""Which columns of the corpus are read, and under which names they go on.

A spec, not a reader: it is part of what names a set of scores, so it holds names only.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

_OURS = ("id", "text", "row", "byte")


class ColumnError(ValueError):
    """The mapping and the corpus don't fit: a column is missing, doubled, or of a type that can't be used."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The mapping of a run.

    `id` and `text` are source columns; `keep` are pairs (output name, source column) of what is passed through.
    Raises ColumnError for an empty name, and for an output name that is doubled or one of id, text, row, byte.
    """

    id: str
    text: str
    keep: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Check the names."""
        outputs = [output for output, _ in self.keep]
        if not all((self.id, self.text, *outputs, *self.kept_sources)):
            raise ColumnError(f"a column name is empty in {self}: name a column of the corpus")
        for output in outputs:
            if output in _OURS:
                raise ColumnError(f"a kept column can't be called {output!r}: that name is taken; choose another")
            if outputs.count(output) > 1:
                raise ColumnError(f"two kept columns are called {output!r}: give each its own output name")

    @property
    def kept_sources(self) -> tuple[str, ...]:
        """Source columns of what is passed through, in order."""
        return tuple(source for _, source in self.keep)


def require_columns(wanted: Iterable[str], existing: Iterable[str], where: str) -> None:
    """Raise ColumnError if one of `wanted` isn't, or is twice, in `existing`; names the nearest that is."""
    known = list(existing)
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? It has" if near else "it has"
            raise ColumnError(f"{where}: no column {name!r}; {hint} {', '.join(map(repr, known)) or 'no columns'}")
        if known.count(name) > 1:
            raise ColumnError(f"{where}: column {name!r} is there {known.count(name)} times; its name must be unique")
