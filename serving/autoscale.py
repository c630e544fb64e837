"""How many replicas a version should have, by tokens: those that wait and those that arrive.

Serve's own policy counts requests, but a request is one word or a thousand pages. Here a replica's worth is its
measured speed, so the need is what arrives plus what has piled up, both in tokens a second, over what one replica does:

    replicas = (arriving + backlog / target_backlog_s) / (tokens_per_s * target_utilisation)

The arriving part keeps a busy service from shrinking just because its queue is empty; the backlog part asks for more as
soon as work waits. Serve wraps the policy with its bounds and delays, wakes a version from zero by itself, and calls it
in its controller: nothing heavy may be imported here.

Given up: foresight. A day's first burst finds what the hour before it needed, and waits `upscale_delay_s` and a start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

_NEVER_MORE_THAN = 4.0  # times the replicas there are, in one step: a backlog measured in a bad second isn't a fleet


def desired_replicas(
    backlog_tokens: float,
    arriving_tokens_per_s: float,
    tokens_per_s: float,
    *,
    current: int,
    target_backlog_s: float,
    target_utilisation: float,
) -> int:
    """Replicas that would keep the backlog under `target_backlog_s` seconds of work.

    Parameters
    ----------
    backlog_tokens, arriving_tokens_per_s : over all replicas.
    tokens_per_s : what one replica does when it is busy; 0 before its first batch, which asks for no change.
    """
    needed = arriving_tokens_per_s + backlog_tokens / target_backlog_s
    if not needed:
        return 0
    if tokens_per_s <= 0:
        return max(1, current)
    return min(math.ceil(needed / (tokens_per_s * target_utilisation)), math.ceil(max(1, current) * _NEVER_MORE_THAN))


class TokenBacklogPolicy:
    """The policy as Serve calls it."""

    def __init__(self, target_backlog_s: float, target_utilisation: float) -> None:
        self._backlog_s, self._utilisation = target_backlog_s, target_utilisation

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Sum over replicas what each said of itself."""
        said = context.aggregated_metrics or {}
        speeds = [speed for speed in _values(said, "tokens_per_s") if speed > 0]
        return desired_replicas(
            sum(_values(said, "backlog_tokens")),
            sum(_values(said, "arriving_tokens_per_s")),
            sum(speeds) / len(speeds) if speeds else 0.0,
            current=context.current_num_replicas,
            target_backlog_s=self._backlog_s,
            target_utilisation=self._utilisation,
        ), {}


def _values(said: Mapping[str, Mapping[Any, float]], name: str) -> Sequence[float]:
    return list(said.get(name, {}).values())
