"""A replica's figures for Ray's own metrics, which every node exports to Prometheus, tagged by bundle.

Written at most once a second: at 5 to 10 us each they would be a tenth of what a short call costs. Latency by stage is
told by the ingress, whose `/metrics` is richer (`serving.metrics`).
"""

from __future__ import annotations

import time
from typing import Any

from ray.serve import metrics

from serving.batcher import Batcher
from serving.settings import BundleSettings

_TAGS: Any = ("name", "version", "bundle")  # Ray's annotation knows tuples of one
_EVERY_S = 1.0


class ReplicaGauges:
    """Queue, batch fill and speed of one replica."""

    def __init__(self, settings: BundleSettings, bundle: str) -> None:
        tags = {"name": settings.name, "version": settings.version, "bundle": bundle}
        self._queue = metrics.Gauge("verbatim_replica_queue_tokens", "Tokens that wait for the device.", _TAGS)
        self._fill = metrics.Gauge("verbatim_replica_batch_fill", "Mean share of the token budget used.", _TAGS)
        self._speed = metrics.Gauge("verbatim_replica_tokens_per_s", "Speed of late batches.", _TAGS)
        self._written_at = 0.0
        for one in (self._queue, self._fill, self._speed):
            one.set_default_tags(dict(tags))  # Ray adds its own to the very dict

    def observe(self, batcher: Batcher) -> None:
        """Write down how the replica stands, if the last time is long enough ago."""
        now = time.monotonic()
        if now - self._written_at < _EVERY_S:
            return
        self._written_at = now
        batches = max(1, batcher.stats.num_batches)
        self._queue.set(batcher.queue_tokens)
        self._fill.set(batcher.stats.num_tokens / (batches * batcher.token_budget))
        self._speed.set(batcher.tokens_per_s)
