"""Ours: the packed engine as the scoring job calls it, from token ids or from texts."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np

from jobs.benchmark.contender import Answer, Order, Setting
from jobs.benchmark.work import Work
from models.bundle import Bundle, load_bundle
from models.precision import Precision
from models.scorer import Scorer
from models.tokeniser import Tokens

_BUDGETS = (1024, 2048, 4096, 8192, 16384)
_GPU_BUDGETS = (8192, 16384, 32768, 65536, 131072)


class FromTokens:
    """Token ids in, probabilities out."""

    note = ""

    def __init__(self, order: Order, calibration: Work) -> None:
        budgets = _BUDGETS if order.device == "cpu" else _GPU_BUDGETS
        self.settings = tuple(Setting(budget) for budget in budgets)
        self.bundle = load_bundle(Path(order.bundle))
        self._order = order
        self._scorers: dict[int, Scorer] = {}

    def score(self, work: Work, setting: Setting) -> Answer:
        """One call of the scorer, as for a unit."""
        return self._score(Tokens(work.ids, work.lengths, np.zeros(len(work), np.bool_)), setting)

    def _score(self, tokens: Tokens, setting: Setting) -> Answer:
        scorer = self._scorer(setting.budget)
        table = scorer.score(tokens)
        head = self.bundle.spec.heads[0]
        prefix = "prob_" if head.name == "sentiment" else f"prob_{head.name}_"
        probs = np.stack([table[f"{prefix}{label}"].to_numpy() for label in head.labels], axis=1)
        return Answer(probs, tokens.num_tokens, scorer.flops(tokens))

    def _scorer(self, budget: int) -> Scorer:
        """Only the last one is kept: a scorer holds the weights."""
        if budget not in self._scorers:
            self._scorers.clear()
            self._scorers[budget] = _build(self.bundle, budget, self._order)
        return self._scorers[budget]


class FromTexts(FromTokens):
    """The same with the tokenising inside the clock, for peers that can't take token ids."""

    def score(self, work: Work, setting: Setting) -> Answer:
        """Tokenise, then score."""
        return self._score(self.bundle.tokeniser.encode(work.texts), setting)


def _build(bundle: Bundle, budget: int, order: Order) -> Scorer:
    return Scorer(
        bundle,
        token_budget=budget,
        precision=cast(Precision, order.precision),
        device=order.device,
        threads=order.threads,
        is_gated=order.is_gated,
    )
