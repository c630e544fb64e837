"""The token budget of a device, found by a short probe: the smallest that is nearly as fast as any.

Small batches waste a device's width, large ones its memory and caches. Fixed once for a set of scores (the ledger keeps
it), because the same batches are what makes a resumed run write the same bytes.
"""

from __future__ import annotations

import logging
import time

import numpy as np

from models.scorer import Scorer
from models.tokeniser import Tokens

SMALLEST, LARGEST = 512, 2**18
NEARLY = 0.97  # of the best rate seen
_REPEATS = 3
_LONGEST_S = 1.0  # passes this long end the search: larger ones only make a replica slower to answer
_MEAN_LOG, _SPREAD_LOG = 3.4, 0.8  # lengths are log-normal, as those of customer feedback: mean 41 tokens

log = logging.getLogger("verbatim.models")


def find_token_budget(scorer: Scorer) -> int:
    """Try budgets of 512, 1024, … tokens on made-up texts for some seconds; the scorer then has the one that is found.

    A budget at which the device runs out of memory isn't taken, nor is any above it.
    """
    rates: dict[int, float] = {}
    budget = SMALLEST
    while budget <= LARGEST:
        scorer.token_budget = budget
        tokens = _made_up(budget * scorer.depth, scorer)
        halved = scorer.num_halved
        seconds = min(_seconds(scorer, tokens) for _ in range(_REPEATS))
        if scorer.num_halved > halved:
            break
        rates[budget] = tokens.num_tokens / seconds
        if seconds > _LONGEST_S or rates[budget] < NEARLY * max(rates.values()):
            break
        budget *= 2
    scorer.token_budget = next((b for b, rate in rates.items() if rate >= NEARLY * max(rates.values())), SMALLEST)
    log.info("token budget %d, found among %s tokens/s", scorer.token_budget, {b: round(r) for b, r in rates.items()})
    return scorer.token_budget


def tokens_per_s(scorer: Scorer, seconds: float) -> float:
    """Score made-up texts, once and then for so long; 0 if a batch didn't fit the device's memory."""
    tokens = _made_up(scorer.token_budget * scorer.depth, scorer)
    halved, began, passes = scorer.num_halved, time.perf_counter(), 0
    while passes == 0 or time.perf_counter() - began < seconds:
        scorer.score(tokens)
        passes += 1
    if scorer.num_halved > halved:
        return 0.0
    return passes * tokens.num_tokens / (time.perf_counter() - began)


def _made_up(num_tokens: int, scorer: Scorer) -> Tokens:
    """Texts of about so many tokens in all; which tokens doesn't matter to the speed, so they are one text's, cut."""
    limit = scorer.bundle.spec.max_length
    lengths = np.random.default_rng(0).lognormal(_MEAN_LOG, _SPREAD_LOG, num_tokens // 8).astype(np.int32)
    lengths = np.clip(lengths, 3, limit)
    lengths = lengths[: max(1, int(np.searchsorted(np.cumsum(lengths), num_tokens)))]
    one = scorer.bundle.tokeniser.encode(["好 a " * limit], with_offsets=True)
    assert one.offsets is not None
    ids = np.concatenate([one.ids[:length] for length in lengths])
    offsets = np.concatenate([one.offsets[:length] for length in lengths])
    return Tokens(ids, lengths, np.zeros(len(lengths), np.bool_), offsets)


def _seconds(scorer: Scorer, tokens: Tokens) -> float:
    began = time.perf_counter()
    scorer.score(tokens)
    return time.perf_counter() - began
