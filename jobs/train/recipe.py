"""The recipe of a run: all that decides its weights, carried by every checkpoint, so that no two recipes can mix.

How the work is spread over workers, passes and devices isn't part of it, but for precision where that was asked for: a
run may go on elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

from jobs.train.checkpoints import Checkpoint
from jobs.train.encoding import Words
from jobs.train.pretrain_settings import PretrainError, PretrainSettings
from models.fetch import split_reference

_SPREAD = {"accumulate"}
_TOKENIZER = "tokenizer"


def recipe_of(settings: PretrainSettings, tokenizer: Tokenizer, words: Words) -> dict[str, Any]:
    """Plain values by dotted name."""
    parts: dict[str, Any] = {
        "data": [source.model_dump() for source in settings.data],
        "architecture": settings.architecture.model_dump(),
        "objective": {**settings.objective.model_dump(), "chinese_words": words},
        "schedule": settings.schedule.model_dump(exclude=_SPREAD),
        "bundle": split_reference(settings.bundle)[1] if settings.bundle else None,
        "seed": settings.seed,
        "precision": settings.precision,
        _TOKENIZER: hashlib.sha256(tokenizer.to_str().encode()).hexdigest()[:12],
    }
    return dict(_flatten(parts))


def check_recipe(checkpoint: Checkpoint, recipe: Mapping[str, Any]) -> None:
    """Refuse to go on from a checkpoint of another recipe.

    Raises
    ------
    PretrainError : one line for each difference.
    """
    names = sorted(checkpoint.recipe.keys() | recipe.keys())
    apart = [name for name in names if checkpoint.recipe.get(name) != recipe.get(name)]
    if apart:
        lines = "".join(f"\n  - {_difference(name, checkpoint.recipe.get(name), recipe.get(name))}" for name in apart)
        raise PretrainError(
            f"the checkpoint {checkpoint.store.root} was made by another recipe:{lines}\n"
            "set these back to go on from it, or choose another output"
        )


def _difference(name: str, before: object, now: object) -> str:
    if name == _TOKENIZER:
        return f"the tokenizer isn't the one it was trained with (digest {before}, now {now})"
    return f"{name}: {before!r}, now {now!r}"


def _flatten(parts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in parts.items():
        inner = _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", value)]
        pairs += inner
    return pairs
