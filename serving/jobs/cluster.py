"""Ray's job service, as far as it is needed here. Its client blocks, so it is called in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from serving.errors import RequestError
from serving.jobs.messages import State

_STATES: dict[str, State] = {
    "PENDING": "queued",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "STOPPED": "cancelled",
}
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Progress:
    """How a job stands; `exit_code` once its command has ended."""

    state: State
    exit_code: int | None = None


class Cluster(Protocol):
    """What runs jobs."""

    async def submit(self, job_id: str, entrypoint: str) -> None:
        """Start a command under an id."""

    async def progress(self, job_id: str) -> Progress:
        """Say how it stands; `lost` if the cluster doesn't know it."""

    async def stop(self, job_id: str) -> None:
        """End it, if it hasn't ended."""


class RayCluster:
    """Over the dashboard's HTTP."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def submit(self, job_id: str, entrypoint: str) -> None:
        """Start a command under an id."""
        await self._call(lambda client: client.submit_job(entrypoint=entrypoint, submission_id=job_id))

    async def progress(self, job_id: str) -> Progress:
        """Say how it stands."""
        return await self._call(lambda client: _progress(client, job_id))

    async def stop(self, job_id: str) -> None:
        """End it, if it hasn't ended."""
        await self._call(lambda client: client.stop_job(job_id))

    async def _call(self, what: Callable[[Any], Answer]) -> Answer:
        try:
            return await asyncio.to_thread(lambda: what(self._client()))
        except (ConnectionError, RuntimeError, OSError):
            raise RequestError("unavailable", "the cluster's job service doesn't answer", retry_after_s=5) from None

    def _client(self) -> Any:
        from ray.job_submission import JobSubmissionClient  # noqa: PLC0415 - a second to import, and few need it

        return JobSubmissionClient(self._address)


def _progress(client: Any, job_id: str) -> Progress:
    known = {one.submission_id: one for one in client.list_jobs()}
    if job_id not in known:
        return Progress("lost")
    return Progress(_STATES[known[job_id].status.value], known[job_id].driver_exit_code)
