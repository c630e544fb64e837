"""What a person reads at the end of a run, or instead of one (`--dry-run`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TABLE = (
    ("rows in", "rows_in"),
    ("  scored", "rows_scored"),
    ("  rejected", "rows_rejected"),
    ("different texts", "texts"),
    ("tokens", "tokens"),
    ("units", "units"),
    ("  of this run", "units_this_run"),
    ("tokens of this run", "tokens_this_run"),
    ("seconds", "seconds"),
    ("tokens/s", "tokens_per_s"),
    ("share of matmul limit", "limit_share"),
    ("cost", "cost"),
    ("files rejected whole", "files_rejected"),
    ("hidden files ignored", "files_ignored"),
    ("units superseded", "units_superseded"),
    ("ids that came again", "repeated_ids"),
    ("bundle", "bundle"),
    ("fingerprint", "fingerprint"),
)
_ONLY_IF_ANY = ("cost", "limit_share", "files_rejected", "files_ignored", "units_superseded", "repeated_ids")


def show_manifest(facts: Mapping[str, Any]) -> None:
    """Print the final table and where things are."""
    for label, key in _TABLE:
        if facts[key] or key not in _ONLY_IF_ANY:
            _print(label, facts[key])
    output = facts["output"].rstrip("/")
    _print("scores", f"{output}/{facts['scores']}/")
    if facts["rows_rejected"] or facts["files_rejected"]:
        _print("rejected", f"{output}/{facts['rejected']}/")
    _print("manifest", f"{output}/manifest.json")


def show_plan(facts: Mapping[str, Any]) -> None:
    """Print what a run would do."""
    for label, value in facts.items():
        _print(label, "unknown until read" if value is None else value)


def _print(label: str, value: object) -> None:
    plain = f"{value:,}" if isinstance(value, int | float) else str(value)
    print(f"{label:<24}{plain}")  # noqa: T201
