"""What `/metrics` shows: requests, tokens, refusals, latency by stage, queues and batch fill, by bundle.

Figures of replicas come with their replies, so a scrape asks nobody. With several ingress replicas a scrape reaches one
of them: then take Ray's own metrics (`serving.gauges`), which every node exports.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.admission import Admission
from serving.settings import BundleSettings
from serving.wire import ScoreReply

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_MODEL = ("name", "version")


class Metrics:
    """The registry of one ingress replica."""

    def __init__(self, admission: Admission) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "verbatim_requests", "Requests by route and status.", ("route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "verbatim_request_seconds", "From headers to answer.", ("route",), buckets=_SECONDS, registry=self.registry
        )
        self._refused = Counter("verbatim_refused", "Refusals by code.", ("code",), registry=self.registry)
        self._texts = Counter("verbatim_texts", "Texts scored.", _MODEL, registry=self.registry)
        self._tokens = Counter("verbatim_tokens", "Tokens scored.", _MODEL, registry=self.registry)
        self._stages = Histogram(
            "verbatim_stage_seconds", "Time by stage.", (*_MODEL, "stage"), buckets=_SECONDS, registry=self.registry
        )
        self._queue = Gauge(
            "verbatim_queue_tokens", "Tokens waiting, when last heard.", (*_MODEL, "replica"), registry=self.registry
        )
        self._fill = Gauge(
            "verbatim_batch_fill", "Mean share of the token budget used.", (*_MODEL, "replica"), registry=self.registry
        )
        in_flight = Gauge("verbatim_tokens_in_flight", "Tokens admitted, estimated.", registry=self.registry)
        in_flight.set_function(lambda: admission.in_flight)
        budget = Gauge("verbatim_tokens_in_flight_limit", "Tokens that may be in flight.", registry=self.registry)
        budget.set(admission.budget)

    def request(self, route: str, status: int, seconds: float) -> None:
        """An answered request; `route` is the pattern, not the path."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def refusal(self, code: str) -> None:
        """A request that wasn't answered."""
        self._refused.labels(code).inc()

    def reply(self, bundle: BundleSettings, reply: ScoreReply, num_tokens: int) -> None:
        """What a replica did, and how it stands."""
        model = (bundle.name, bundle.version)
        self._texts.labels(*model).inc(len(reply.rows))
        self._tokens.labels(*model).inc(num_tokens)
        stages, load = reply.stages, reply.load
        for stage, seconds in (("tokenise", stages.tokenise_s), ("wait", stages.wait_s), ("compute", stages.compute_s)):
            self._stages.labels(*model, stage).observe(seconds)
        self._queue.labels(*model, load.replica).set(load.queue_tokens)
        self._fill.labels(*model, load.replica).set(load.batch_tokens / max(1, load.num_batches) / load.token_budget)

    def text(self) -> bytes:
        """All of it in Prometheus' text form."""
        return generate_latest(self.registry)
