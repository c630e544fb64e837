"""Files that can't be read at all, gathered so that one message names every one of them."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BadFile:
    """One unreadable file: its path below the input's root, and the cause in words."""

    path: str
    cause: str


class BadFiles(ValueError):  # noqa: N818 - as below
    """The input holds files that can't be read; `files` lists all of them."""

    def __init__(self, files: Iterable[BadFile]) -> None:
        self.files = tuple(files)
        super().__init__(self.files)

    def __reduce__(self) -> tuple[type["BadFiles"], tuple[tuple[BadFile, ...]]]:
        """Travel by its files alone: Ray Data adds words of its own to `args` on the way."""
        return BadFiles, (self.files,)

    def __str__(self) -> str:
        """One line a file."""
        lines = "".join(f"\n  - {bad.path}: {bad.cause}" for bad in self.files)
        return f"{len(self.files)} input file(s) can't be read:{lines}\nmend or remove them, or choose to reject them"


class ChangedFile(ValueError):  # noqa: N818 - reads as what it is
    """A file isn't the one that was planned: it was replaced or changed since; plan again."""
