"""What outcomes add up to: speed, latencies from the moment a request was due, refusals, and whatever went wrong.

A refusal is a 429 that says when to come again. Any other answer than 200 has failed, also a 429 without Retry-After.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.benchmark.serve.load import Fired, Outcome


@dataclass(frozen=True)
class Summary:
    """Counts are of all requests; speeds and latencies of those in the window. Latencies in ms; None: there were none.

    `late_ms` is the 99th percentile of how long a request waited in the generator itself.
    """

    num_requests: int
    num_answered: int
    num_refused: int
    num_failed: int
    num_lost: int
    requests_per_s: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    refusal_p50_ms: float | None
    refusal_p99_ms: float | None
    late_ms: float | None
    generator_share: float


def summarise(fired: Fired, warm_s: float = 0.0, seconds: float | None = None) -> Summary:
    """Sum up.

    Parameters
    ----------
    warm_s : what was due before isn't in the window.
    seconds : end of the window, from the beginning; None: it ends with the last answer.
    """
    first = fired.began + warm_s
    last = fired.ended if seconds is None else fired.began + seconds
    answered = [one for one in fired.outcomes if one.status == 200]
    refused = [one for one in fired.outcomes if is_refusal(one)]
    latencies = [_latency_ms(one) for one in answered if first <= one.due <= last]
    refusals = [_latency_ms(one) for one in refused if first <= one.due <= last]
    lost = sum(one.status == 0 for one in fired.outcomes)
    return Summary(
        num_requests=len(fired.outcomes),
        num_answered=len(answered),
        num_refused=len(refused),
        num_failed=len(fired.outcomes) - len(answered) - len(refused) - lost,
        num_lost=lost,
        requests_per_s=sum(first < one.done <= last for one in answered) / (last - first),
        p50_ms=percentile(latencies, 0.5),
        p95_ms=percentile(latencies, 0.95),
        p99_ms=percentile(latencies, 0.99),
        refusal_p50_ms=percentile(refusals, 0.5),
        refusal_p99_ms=percentile(refusals, 0.99),
        late_ms=percentile([1e3 * (one.sent - one.due) for one in fired.outcomes], 0.99),
        generator_share=fired.cpu_s / (fired.ended - fired.began),
    )


def is_refusal(outcome: Outcome) -> bool:
    """Whether the server said no as it should: 429, and in how many whole seconds to ask again."""
    return outcome.status == 429 and (outcome.retry_after or "").isdigit()


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of them doesn't exceed; None of none."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _latency_ms(outcome: Outcome) -> float:
    return 1e3 * (outcome.done - outcome.due)
