"""The deployment that speaks to clients, and the way from it to the replicas over Ray.

Scoring changes nothing, so a call whose replica died under it is made again on another; a client sees that only as
time. A client that hangs up cancels its request here, and Serve carries the cancellation on to the replica, where the
batcher drops the texts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from functools import partial
from typing import Any

from fastapi import FastAPI
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from serving.coalesce import Coalescer
from serving.errors import RequestError
from serving.service import Service
from serving.settings import BundleSettings, ServingSettings
from serving.web.http import build_http
from serving.web.listener import Listener
from serving.wire import BundleFacts, ExplainCall, ExplainReply, ScoreCall, ScoreReply

_TRIES = 4  # a replica may die, and so may the next; Serve takes a second to see that one is gone
_PAUSE_S = 0.2

logger = logging.getLogger("ray.serve")


class Ingress:
    """What Serve runs: it hands HTTP to the application that `__serve_build_asgi_app__` builds."""

    def __init__(self, settings: ServingSettings, handles: dict[str, DeploymentHandle[Any]]) -> None:
        self.service = Service(settings, RayBackend(handles, settings.bundles))
        listen = settings.ingress.listen
        self._listener = None if listen is None else Listener(listen, settings.admission.deadline_s)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Build the application, in the replica."""
        return build_http(self.service, listener=self._listener)

    async def leave(self) -> None:
        """Take no more requests and finish those there are, while every replica is still at work."""
        if self._listener is not None:
            await self._listener.close()


class RayBackend:
    """Calls over Serve's handles."""

    def __init__(self, handles: dict[str, DeploymentHandle[Any]], bundles: Iterable[BundleSettings]) -> None:
        self._handles = handles
        self._coalescers = {
            one.deployment: Coalescer(
                partial(self._call, one.deployment, "score"), token_budget=one.token_budget, num_lanes=one.num_lanes
            )
            for one in bundles
        }

    async def score(self, deployment: str, call: ScoreCall) -> ScoreReply | RequestError:
        """Have texts scored."""
        return await self._coalescers[deployment].score(call)

    async def explain(self, deployment: str, call: ExplainCall) -> ExplainReply | RequestError:
        """Have a score explained."""
        reply: ExplainReply | RequestError = await self._call(deployment, "explain", call)
        return reply

    async def facts(self, deployment: str) -> BundleFacts | RequestError:
        """Ask a replica about its bundle."""
        reply: BundleFacts | RequestError = await self._call(deployment, "facts")
        return reply

    async def _call(self, deployment: str, method: str, *call: Any) -> Any:
        for attempt in range(_TRIES):
            try:
                return await getattr(self._handles[deployment], method).remote(*call)
            except RayActorError:
                logger.warning("a replica died under a call", extra={"deployment": deployment, "attempt": attempt})
                await asyncio.sleep(attempt * _PAUSE_S)
            except BackPressureError:
                return RequestError("overloaded", "the model's queue is full", retry_after_s=1)
            except RayServeException:
                return RequestError("unavailable", "the model has no replica that answers", retry_after_s=1)
            except RayError as error:
                logger.error("a call failed", extra={"deployment": deployment, "kind": type(error).__name__})
                return RequestError("internal", "the model failed on this request")
        return RequestError("unavailable", "the model's replicas died one after the other", retry_after_s=5)
