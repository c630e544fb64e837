"""Settings of asynchronous jobs. Without them there are none."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cluster.config import Settings


class JobSettings(Settings):
    """Where jobs run, what they may touch, and where their books lie."""

    store: str = Field(min_length=1, description="a prefix that this service and the cluster reach; holds lists too")
    allow: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(), description="prefixes under which a client may name input and output; none: lists of texts only"
    )
    dashboard: str = Field(default="http://127.0.0.1:8265", description="address of Ray's dashboard, which takes jobs")
