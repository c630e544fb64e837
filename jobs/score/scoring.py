"""Second stage, in a pool of actors that hold the model: units of token ids to written units of scores, 1:1.

An actor has two units at hand: while one is scored, the other is unpacked, or joined and written. A stage of its own
for writing would cost a new worker process a unit wherever actors fill the cores, as Ray ends idle workers there.

Columns out: `id`, the sentiment head's, `lang`, `num_tokens`, `truncated`, the other heads', then what is passed
through; one row a scored verbatim, in the order of the corpus.
"""

from __future__ import annotations

import time
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from jobs.score.recipe import Recipe, worker_bundle
from jobs.score.wire import TokenisedUnit
from jobs.score.write import ScoredUnit, write_unit
from models.heads import SENTIMENT, SENTIMENT_LABELS
from models.limits import matmul_flops_per_s
from models.scorer import Scorer
from models.tokeniser import Tokens

AT_HAND = 2  # units of one actor
_LEADING = (SENTIMENT, *(f"prob_{label}" for label in SENTIMENT_LABELS))


class ScoreUnit:
    """The actor. Built once from a recipe; called by as many threads as `AT_HAND`."""

    def __init__(self, recipe: Recipe) -> None:
        assert recipe.token_budget is not None, "a run looks for the budget before its actors start"
        self._layout = recipe.layout
        self._scorer, self._turn = build_scorer(recipe, recipe.token_budget), Lock()
        architecture = self._scorer.bundle.spec.architecture
        self._limit = matmul_flops_per_s(architecture, recipe.precision, recipe.device)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Score one unit and write it; gives its receipt."""
        return write_unit(self.score(TokenisedUnit.from_block(block)), self._layout)

    def score(self, unit: TokenisedUnit) -> ScoredUnit:
        """Score one unit, when it's its turn."""
        tokens = _tokens(unit.texts)
        with self._turn:
            began, halved = time.perf_counter(), self._scorer.num_halved
            answers = self._scorer.score(tokens)
            stats = {
                "texts": len(tokens),
                "tokens": tokens.num_tokens,
                "score_s": time.perf_counter() - began,
                "flops": self._scorer.flops(tokens),
                "limit_flops_per_s": self._limit,
                "halved": self._scorer.num_halved - halved,
            }
        return ScoredUnit(unit.name, unit.rows_in, unit.rows.num_rows, stats, join(unit, answers), unit.rejected)


def build_scorer(recipe: Recipe, token_budget: int) -> Scorer:
    """Load the run's bundle onto the device at hand."""
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"pool.num_gpus asks for a GPU, but torch {torch.__version__} sees none on this machine")
    torch.set_num_threads(recipe.threads)
    return Scorer(
        worker_bundle(recipe.bundle, recipe.heads),
        token_budget=token_budget,
        precision=recipe.precision,
        device=recipe.device,
        threads=recipe.threads,
    )


def join(unit: TokenisedUnit, answers: pa.Table) -> pa.Table:
    """Give every verbatim of the unit the answers for its text."""
    facts = {
        "lang": unit.texts["lang"],
        "num_tokens": unit.texts["ids"].combine_chunks().value_lengths(),
        "truncated": unit.texts["truncated"],
    }
    leading: dict[str, Any] = {name: answers[name] for name in answers.column_names if name in _LEADING}
    others = {name: answers[name] for name in answers.column_names if name not in _LEADING}
    by_text = pa.table(leading | facts | others).take(unit.rows["text"])
    columns = {"id": unit.rows["id"]} | {name: by_text[name] for name in by_text.column_names}
    kept = [name for name in unit.rows.column_names if name not in ("id", "text")]
    return pa.table(columns | {name: unit.rows[name] for name in kept})


def _tokens(texts: pa.Table) -> Tokens:
    lists = texts["ids"].combine_chunks()
    return Tokens(
        ids=lists.flatten().to_numpy(),
        lengths=lists.value_lengths().to_numpy(),
        truncated=texts["truncated"].to_numpy(),
        offsets=_pairs(texts["offsets"].combine_chunks()) if "offsets" in texts.column_names else None,
    )


def _pairs(lists: pa.ListArray) -> NDArray[np.int32]:
    """(T, 2) without a copy."""
    numbers: NDArray[np.int32] = lists.flatten().flatten().to_numpy()
    return numbers.reshape(-1, 2)
