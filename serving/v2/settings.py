"""Where gRPC listens: it has no TLS, so on loopback, unless the settings say that something before it has."""

from __future__ import annotations

import ipaddress

from pydantic import Field, model_validator

from cluster.config import Settings


class GrpcSettings(Settings):
    """The address of gRPC in every ingress replica; several on one machine share it, connection by connection."""

    host: str = "127.0.0.1"
    port: int = Field(default=8001, ge=1, le=65535)
    tls_front: bool = Field(default=False, description="a proxy that ends TLS stands before it")

    @model_validator(mode="after")
    def _loopback_without_tls(self) -> GrpcSettings:
        if not self.tls_front and not is_loopback(self.host):
            raise ValueError(
                f"host must be of loopback (127.0.0.1, ::1, localhost) unless tls_front is true, got {self.host!r}"
            )
        return self

    @property
    def address(self) -> str:
        """As gRPC takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
