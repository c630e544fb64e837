"""The texts that a teacher is asked about: clean, masked, each once.

Personal data is masked before a text reaches a tokeniser or a file; what the cache keeps are digests, never texts.
"""

from __future__ import annotations

import logging

import numpy as np

from jobs.distil.settings import DistilError, LessonSettings
from jobs.evaluate.rows import Rows, read_rows
from jobs.evaluate.settings import SetSettings
from models.masking import mask

log = logging.getLogger("verbatim.distil")


def read_texts(settings: LessonSettings, seed: int) -> list[str]:
    """All texts of a lesson's sets in order, without repeats.

    Raises
    ------
    ValueError, OSError : what can't be read, or no text at all.
    """
    parts = {name: _chosen(name, one) for name, one in settings.sets.items()}
    texts = list(dict.fromkeys(mask(text) for rows in parts.values() for text in rows.texts))
    if not texts:
        raise DistilError(f"no text in {', '.join(parts)}")
    if settings.max_texts is not None and len(texts) > settings.max_texts:
        chosen = np.random.default_rng(seed).permutation(len(texts))[: settings.max_texts]
        texts = [texts[place] for place in sorted(chosen)]
    log.info("%d different texts of %s", len(texts), ", ".join(parts))
    return texts


def _chosen(name: str, settings: SetSettings) -> Rows:
    rows, split = read_rows(settings), settings.split
    if split is None:
        return rows
    chosen = rows.where(split.column, split.value)
    if not chosen.any():
        raise DistilError(f"sets.{name}: no row has {split.value!r} in {split.column!r}")
    return rows.take(np.flatnonzero(chosen))
