"""Settings of the service: one YAML that says which bundles run where, what a client may ask, and when to refuse.

An entry under `bundles` is one version of one bundle and becomes one deployment. Entries that share a name stand side
by side; their shares say how much of the traffic that names no version each one gets, so a canary is an entry with a
small share. Given up: `http` is obeyed by `python -m serving` only; under `serve run` and `serve deploy` requests come
through Serve's proxy, whose address stands in Serve's own file, unless `ingress.listen` names one.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cluster.config import Settings
from models.precision import Precision
from serving.jobs.settings import JobSettings
from serving.v2.settings import GrpcSettings, is_loopback

_SHARES_MAY_MISS = 1e-6


class AutoscalingSettings(Settings):
    """How many replicas a version may have, and how long its backlog may be before it gets another."""

    min: int = Field(default=1, ge=0, description="0: no replica while nobody asks; the first to ask waits for one")
    max: int = Field(ge=1)
    target_backlog_s: float = Field(default=1.0, gt=0, description="seconds of work that may wait at a replica")
    target_utilisation: float = Field(default=0.7, gt=0, le=1, description="share of a replica's time kept busy")
    upscale_delay_s: float = Field(default=5.0, ge=0)
    downscale_delay_s: float = Field(default=120.0, ge=0)
    to_zero_delay_s: float = Field(default=600.0, ge=0)

    @model_validator(mode="after")
    def _max_over_min(self) -> AutoscalingSettings:
        if self.max < self.min:
            raise ValueError(f"max {self.max} is under min {self.min}")
        return self


class BundleSettings(Settings):
    """One version of one bundle: what it is, its share of the traffic, and what each of its replicas gets."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    version: str = Field(default="1", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    reference: str = Field(min_length=1, description="as models.fetch takes it; `@digest` pins it")
    share: float = Field(default=1.0, ge=0, le=1, description="of the traffic that asks for the name alone")
    num_replicas: int = Field(default=1, ge=1)
    autoscaling: AutoscalingSettings | None = Field(default=None, description="in place of num_replicas")
    num_cpus: float = Field(default=1.0, ge=0, description="of one replica")
    num_gpus: float = Field(default=0.0, ge=0, description="of one replica; 0.5 puts two on one GPU")
    precision: Literal["auto", Precision] = "auto"
    token_budget: int = Field(default=4096, ge=1, description="most tokens in one forward pass")
    queue_tokens: int = Field(default=262_144, ge=1, description="most tokens that may wait at one replica")
    threads: int = Field(default=1, ge=1, description="cores of one replica on CPU, each with a batch of its own")
    tokeniser_threads: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _one_way_to_count(self) -> BundleSettings:
        if self.autoscaling is not None and "num_replicas" in self.model_fields_set:
            raise ValueError("give num_replicas or autoscaling, not both")
        return self

    @property
    def num_lanes(self) -> int:
        """Batches that all its replicas can compute at once, when there are as many as there may be."""
        return self.threads * (self.num_replicas if self.autoscaling is None else self.autoscaling.max)

    @property
    def deployment(self) -> str:
        """Name of the Serve deployment: no two entries share it, as a name holds no `:`."""
        return f"{self.name}:{self.version}"


class LimitSettings(Settings):
    """What one request may hold. Over it the answer is 413 or 422 and names the field."""

    max_body_bytes: int = Field(default=8 << 20, ge=1)
    max_stream_bytes: int = Field(default=1 << 30, ge=1, description="of a whole NDJSON body, read piece by piece")
    max_texts: int = Field(default=1024, ge=1)
    max_text_chars: int = Field(default=32_768, ge=1, description="a longer text gets an error of its own")


class AdmissionSettings(Settings):
    """When the service is full, and how long it tries."""

    tokens_in_flight: int = Field(default=131_072, ge=1, description="over all bundles; more is refused with 429")
    deadline_s: float = Field(default=30.0, gt=0, description="of one request, from its last byte; then 504")


class AuthSettings(Settings):
    """Who may ask. No file: everybody, which is meant for loopback."""

    keys_file: str | None = Field(default=None, min_length=1, description="YAML; `python -m serving.keys new NAME`")


class HttpSettings(Settings):
    """An address of HTTP. Off loopback it wants TLS and keys, or a proxy before it that sees to both."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    trusted_front: bool = Field(default=False, description="a proxy that has TLS and checks who asks stands before it")
    tls_cert: str | None = Field(default=None, min_length=1)
    tls_key: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _cert_and_key(self) -> HttpSettings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together: give both or neither")
        return self


class IngressSettings(Settings):
    """The processes that speak HTTP and gRPC. Budgets and key rates are split evenly between them."""

    num_replicas: int = Field(default=1, ge=1)
    num_cpus: float = Field(default=0.0, ge=0)
    resources: dict[str, float] = Field(default={}, description="Ray's custom ones; pins it to nodes that have them")
    listen: HttpSettings | None = Field(default=None, description="a port of its own, past Serve's proxy")


class ServingSettings(Settings):
    """Everything that the service can be told. `bundles` has no default."""

    bundles: Annotated[tuple[BundleSettings, ...], Field(strict=False, min_length=1)]
    limits: LimitSettings = LimitSettings()
    admission: AdmissionSettings = AdmissionSettings()
    auth: AuthSettings = AuthSettings()
    http: HttpSettings = HttpSettings()
    grpc: GrpcSettings | None = Field(default=None, description="left out: the Open Inference Protocol over HTTP only")
    jobs: JobSettings | None = Field(default=None, description="left out: no asynchronous jobs")
    ingress: IngressSettings = IngressSettings()
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @model_validator(mode="after")
    def _nothing_open_to_the_network(self) -> ServingSettings:
        for where, http in (("http", self.http), ("ingress.listen", self.ingress.listen)):
            if http is None or http.trusted_front or is_loopback(http.host):
                continue
            missing = {f"{where}.tls_cert": http.tls_cert, "auth.keys_file": self.auth.keys_file}
            if wanted := " and ".join(name for name, value in missing.items() if value is None):
                raise ValueError(
                    f"{where}.host {http.host!r} is open to the network: set {wanted} too, "
                    f"or {where}.trusted_front: true where a proxy that has TLS and checks who asks stands before it"
                )
        return self

    @model_validator(mode="after")
    def _versions_differ(self) -> ServingSettings:
        seen: set[tuple[str, str]] = set()
        for bundle in self.bundles:
            if (key := (bundle.name, bundle.version)) in seen:
                raise ValueError(f"bundles: {bundle.name} has version {bundle.version!r} twice")
            seen.add(key)
        return self

    @model_validator(mode="after")
    def _shares_are_whole(self) -> ServingSettings:
        for name, versions in self.by_name().items():
            if abs((total := sum(v.share for v in versions)) - 1) > _SHARES_MAY_MISS:
                raise ValueError(f"bundles: the shares of {name}'s versions must sum to 1, got {total:g}")
        return self

    def by_name(self) -> dict[str, tuple[BundleSettings, ...]]:
        """Versions of each name, in the file's order."""
        grouped: dict[str, list[BundleSettings]] = defaultdict(list)
        for bundle in self.bundles:
            grouped[bundle.name].append(bundle)
        return {name: tuple(versions) for name, versions in grouped.items()}
