"""What can go wrong in a part of the mode without spoiling the others."""

from __future__ import annotations


class PartError(ValueError):
    """A part that couldn't be measured, and why."""


class ServerError(PartError):
    """A server that didn't start, or ended; the text is the end of its log."""


class GeneratorError(PartError):
    """The load generator failed, or didn't end in its time."""


class KillError(PartError):
    """Nothing was there to be killed or changed, or the change failed."""
