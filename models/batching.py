"""Token-budget batches: longest texts first, cut by real tokens, never by rows.

Sorting makes neighbours of like length (little padding inside attention) and shows at once whether the longest fit
into memory. Given up: the texts' own order, which the caller restores.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def batches(lengths: NDArray[np.integer], token_budget: int) -> Iterator[NDArray[np.int64]]:
    """Give the indices of the texts of each batch; every text is in exactly one.

    A text longer than the budget is a batch of its own. Ties keep their order, so equal input gives equal batches.

    Raises
    ------
    ValueError : a budget under 1.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, got {token_budget}")
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    ends = np.cumsum(lengths[order], dtype=np.int64)
    begin = 0
    while begin < len(order):
        used = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, used + token_budget, side="right")))
        yield order[begin:end]
        begin = end
