"""Asynchronous jobs: hand in, ask, fetch, cancel. The scoring job itself runs on the cluster (`python -m jobs.score`).

The books are one small object a job in the store, so any front process answers for any job, also after a restart. A
list of texts is kept there for the job to read, and so its personal data is masked first: its scores are those of the
masked texts. A job is seen by the key that handed it in; to every other it doesn't exist.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pyarrow.parquet as pq

from cluster.store_errors import StoreError, StoreNotFound
from cluster.stores import Store, open_store
from models.masking import mask
from serving.errors import RequestError
from serving.jobs.cluster import Cluster, Progress
from serving.jobs.command import entrypoint
from serving.jobs.messages import Corpus, JobRequest
from serving.jobs.places import check_place
from serving.jobs.settings import JobSettings
from serving.service import Caller, Service, Wanted
from serving.settings import BundleSettings
from serving.web.messages import Item

_BOOK = "job.json"
_TEXTS = "texts.jsonl"
_ID = re.compile(r"job-[0-9a-f]{32}")
_PRIVATE = ("input", "output", "scores", "rejected")  # of a list's manifest: our own store's paths
_FACTS = ("lang", "num_tokens", "truncated")
_FAILED = {1: "the run isn't whole or rejected too many rows", 2: "something that was given can't be used"}


@dataclass(frozen=True)
class Book:
    """What is kept of a job."""

    id: str
    owner: str | None
    model: str
    version: str
    created_at: str
    num_texts: int | None  # None: a corpus
    output: str  # of the scoring job


class Desk:
    """The jobs of one service."""

    def __init__(self, service: Service, settings: JobSettings, cluster: Cluster) -> None:
        self._service, self._settings, self._cluster = service, settings, cluster
        self._store = open_store(settings.store)

    async def submit(self, caller: Caller, asked: JobRequest) -> dict[str, Any]:
        """Start a job.

        Raises
        ------
        RequestError : it may not be started, or the cluster or the store doesn't answer.
        """
        bundle = self._service.choose(caller, Wanted(asked.model, asked.version))
        job_id = f"job-{secrets.token_hex(16)}"
        if asked.corpus is not None:
            self._check_corpus(caller, asked.corpus)
            settings, num_texts = asked.corpus.model_dump(), None
        else:
            texts = asked.texts or []
            settings, num_texts = await self._keep_texts(caller, bundle, texts, job_id), len(texts)
        owner = None if caller.key is None else caller.key.name
        now = datetime.now(UTC).isoformat(timespec="seconds")
        book = Book(job_id, owner, bundle.name, bundle.version, now, num_texts, settings["output"])
        await self._put(f"{job_id}/{_BOOK}", json.dumps(asdict(book)).encode())
        await self._cluster.submit(job_id, entrypoint(settings | _scoring(bundle)))
        return await self._describe(book, Progress("queued"))

    async def status(self, caller: Caller, job_id: str) -> dict[str, Any]:
        """Say how a job stands, with its manifest once it has succeeded."""
        book = await self._book(caller, job_id)
        return await self._describe(book, await self._cluster.progress(job_id))

    async def cancel(self, caller: Caller, job_id: str) -> dict[str, Any]:
        """End a job; one that has ended stays as it is. What it wrote stays."""
        book = await self._book(caller, job_id)
        await self._cluster.stop(job_id)
        return await self._describe(book, await self._cluster.progress(job_id))

    async def results(self, caller: Caller, job_id: str) -> list[dict[str, Any]]:
        """Give a list's results in its order.

        Raises
        ------
        RequestError : conflict, before it has succeeded, and for a corpus, whose scores lie where the client said.
        """
        book = await self._book(caller, job_id)
        if book.num_texts is None:
            raise RequestError("conflict", "the scores of a corpus lie at its output")
        if (state := (await self._cluster.progress(job_id)).state) != "succeeded":
            raise RequestError("conflict", f"the job is {state}; there are results once it has succeeded")
        found: list[dict[str, Any]] = await self._in_store(lambda: list(_results(open_store(book.output))))
        return sorted(found, key=lambda one: one["place"])

    def _check_corpus(self, caller: Caller, corpus: Corpus) -> None:
        if caller.key is not None and caller.key.tokens_per_minute is not None:
            raise RequestError("forbidden", "a key with a rate may hand in texts, not a corpus", field="corpus")
        check_place(corpus.input, self._settings.allow, "corpus.input")
        check_place(corpus.output, self._settings.allow, "corpus.output")

    async def _keep_texts(
        self, caller: Caller, bundle: BundleSettings, items: Sequence[Item], job_id: str
    ) -> dict[str, Any]:
        """Put a list where the job reads it; gives the job's settings for it."""
        self._service.charge(caller, bundle, [item.text for item in items])
        path = f"{job_id}/{_TEXTS}"
        await self._put(path, await asyncio.to_thread(_lines, items))
        return {
            "input": self._store.uri(path),
            "output": self._store.uri(f"{job_id}/scored"),
            "columns": {"id": "place", "text": "text", "client_id": "id"},
            "max_rejected_share": 1.0,
        }

    async def _describe(self, book: Book, progress: Progress) -> dict[str, Any]:
        manifest = await self._manifest(book) if progress.state == "succeeded" else None
        failed = progress.state == "failed"
        return {
            "id": book.id,
            "object": "job",
            "state": progress.state,
            "model": book.model,
            "version": book.version,
            "created_at": book.created_at,
            "num_texts": book.num_texts,
            "output": book.output if book.num_texts is None else None,
            "message": _FAILED.get(progress.exit_code or 0, "the run was cut off") if failed else None,
            "manifest": manifest,
        }

    async def _manifest(self, book: Book) -> dict[str, Any]:
        plain: dict[str, Any] = await self._in_store(lambda: _manifest(open_store(book.output)))
        return plain if book.num_texts is None else {k: v for k, v in plain.items() if k not in _PRIVATE}

    async def _book(self, caller: Caller, job_id: str) -> Book:
        owner = None if caller.key is None else caller.key.name
        if _ID.fullmatch(job_id):
            try:
                book = Book(**json.loads(await asyncio.to_thread(self._store.read_bytes, f"{job_id}/{_BOOK}")))
            except StoreNotFound:
                book = None
            except StoreError:
                raise _unreachable() from None
            if book is not None and book.owner == owner:
                return book
        raise RequestError("not_found", "no such job", field="id")

    async def _put(self, path: str, data: bytes) -> None:
        await self._in_store(lambda: self._store.put(path, data))

    async def _in_store(self, what: Any) -> Any:
        try:
            return await asyncio.to_thread(what)
        except OSError:
            raise _unreachable() from None


def _unreachable() -> RequestError:
    return RequestError("unavailable", "the store of the jobs doesn't answer", retry_after_s=5)


def _scoring(bundle: BundleSettings) -> dict[str, Any]:
    """The model and its precision, as they serve here."""
    return {"bundle": bundle.reference, "precision": bundle.precision, "pool.num_gpus": bundle.num_gpus}


def _lines(items: Sequence[Item]) -> bytes:
    """A line a text. The job knows it by its place, so that clients' ids may be missing or equal."""
    rows = ({"place": place, "id": item.id, "text": mask(item.text)} for place, item in enumerate(items))
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def _manifest(output: Store) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output.read_bytes("manifest.json"))
    return found


def _results(output: Store) -> Iterator[dict[str, Any]]:
    manifest = _manifest(output)
    for row in _rows(output, manifest["scores"]):
        facts = {name: row.pop(name) for name in _FACTS}
        yield {"place": int(row.pop("id")), **_client_id(row.pop("client_id")), **facts, "scores": row}
    for row in _rows(output, manifest["rejected"]):
        place = int(row["id"])
        fault = {"code": row["reason"], "message": row["detail"] or row["reason"], "field": f"texts.{place}"}
        yield {"place": place, "error": fault}


def _rows(output: Store, folder: str) -> Iterator[dict[str, Any]]:
    for file in output.list(folder):
        yield from pq.read_table(BytesIO(output.read_bytes(file.path))).to_pylist()


def _client_id(given: str | None) -> dict[str, str]:
    return {} if given is None else {"id": given}
