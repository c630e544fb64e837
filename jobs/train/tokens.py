"""The corpus of a pretraining as tokens: made once by tasks, one object a slice, then read where training runs.

    tokens/<digest>/00000.npy    uint32: number of documents, their lengths, then their marked tokens end to end
    tokens/<digest>/index.json   which object is of which source; written last, so what has it is whole

The digest is that of the files' names, sizes and tags, and of how they are tokenised, so changed data are made anew and
a killed run keeps what is done. Training draws from the whole corpus by a plan that follows from the seed, which a
stream couldn't resume at the same step: that is why Ray Data feeds this store and not the steps. Given up: four bytes
of disk a token, on every machine that trains.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tokenizers import Tokenizer

from cluster.stores import LocalStore, Store, open_store
from jobs.train.documents import Slice, read_documents
from jobs.train.encoding import Marked, Words, encode_documents
from jobs.train.pretrain_settings import PretrainError
from models.cache import cache_root

log = logging.getLogger("verbatim.train")

INDEX = "index.json"
_VERSION = 1  # raise it when the same text would give other tokens
_AT_ONCE = 1024  # documents


@dataclass(frozen=True)
class Shard:
    """One object, and what it holds."""

    file: str
    source: int
    num_documents: int
    num_tokens: int


@dataclass(frozen=True)
class TokenTask:
    """How a slice becomes a shard; small enough to travel."""

    output: str  # URI of the folder of the shards
    tokenizer: str  # its JSON
    words: Words

    def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        """Make shard `number` of `slice`; gives the fields of `Shard`."""
        name, one = f"{job['number']:05d}.npy", job["slice"]
        store = open_store(self.output)
        if store.exists(name):
            with store.open(name) as file:
                array = np.load(io.BytesIO(file.read()), allow_pickle=False)
        else:
            array = self._encode(one)
            file = io.BytesIO()
            np.save(file, array)
            store.put(name, file.getvalue())
        return asdict(Shard(name, one.source, int(array[0]), len(array) - 1 - int(array[0])))

    def _encode(self, one: Slice) -> NDArray[np.uint32]:
        tokenizer, documents = Tokenizer.from_str(self.tokenizer), read_documents(one)
        marked: list[Marked] = []
        while some := list(islice(documents, _AT_ONCE)):
            marked += [tokens for tokens in encode_documents(tokenizer, self.words, some) if len(tokens)]
        lengths = np.array([len(tokens) for tokens in marked], dtype=np.uint32)
        return np.concatenate([np.array([len(marked)], dtype=np.uint32), lengths, *marked])


def make_tokens(output: Store, slices: Sequence[Slice], tokenizer: Tokenizer, words: Words, *, on_ray: bool) -> str:
    """Tokenise all slices, or what is left of them; give the URI of the folder.

    Raises
    ------
    PretrainError : there is no text at all.
    """
    text = tokenizer.to_str()
    store = output.child(f"tokens/{_digest(slices, text, words)}")
    if not store.exists(INDEX):
        log.info("tokenising %d slices", len(slices))
        jobs = [{"number": number, "slice": one} for number, one in enumerate(slices)]
        task = TokenTask(store.root, text, words)
        made = _on_ray(task, jobs) if on_ray else [task(job) for job in jobs]
        shards = sorted((Shard(**fields) for fields in made), key=lambda shard: shard.file)
        if not any(shard.num_tokens for shard in shards):
            raise PretrainError("data: there is no text in any row of any file")
        store.put(INDEX, json.dumps([asdict(shard) for shard in shards], indent=1).encode())
    return store.root


def _on_ray(task: TokenTask, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    import ray.data  # noqa: PLC0415 - one process needs no Ray

    rows = ray.data.from_items(jobs, override_num_blocks=len(jobs)).map(task).take_all()
    return [dict(row) for row in rows]


def _digest(slices: Sequence[Slice], tokenizer: str, words: Words) -> str:
    files = [
        (
            one.source,
            asdict(one.columns) if one.columns else None,
            one.split,
            one.span.file.path,
            one.span.file.etag,
            one.span.start,
            one.span.stop,
        )
        for one in slices
    ]
    return hashlib.sha256(json.dumps([_VERSION, files, tokenizer, words]).encode()).hexdigest()[:12]


class TokenStore:
    """The tokens of all documents, mapped from this machine's disk."""

    def __init__(self, uri: str) -> None:
        store = open_store(uri)
        self.shards = [Shard(**fields) for fields in json.loads(store.read_bytes(INDEX))]
        folder = Path(store.root) if isinstance(store, LocalStore) else _fetch(store, self.shards)
        self._arrays = [np.load(folder / shard.file, mmap_mode="r", allow_pickle=False) for shard in self.shards]

    @property
    def num_tokens(self) -> int:
        """Of all documents."""
        return sum(shard.num_tokens for shard in self.shards)

    def documents(self) -> Iterator[tuple[int, int, NDArray[np.int64], NDArray[np.int64]]]:
        """Of each shard: its number, its source, where each document begins, how long it is."""
        for number, (shard, array) in enumerate(zip(self.shards, self._arrays, strict=True)):
            lengths = np.asarray(array[1 : 1 + shard.num_documents]).astype(np.int64)
            begins = 1 + shard.num_documents + np.cumsum(lengths) - lengths
            yield number, shard.source, begins, lengths

    def read(self, shard: int, begin: int, length: int) -> Marked:
        """Marked tokens of a piece of a document."""
        return np.array(self._arrays[shard][begin : begin + length])

    def counts(self, vocab_size: int, ids: int) -> NDArray[np.int64]:
        """(V,) how often each token occurs; `ids` masks the marks out."""
        total = np.zeros(vocab_size, np.int64)
        for shard, array in zip(self.shards, self._arrays, strict=True):
            total += np.bincount(array[1 + shard.num_documents :] & ids, minlength=vocab_size)
        return total


def _fetch(store: Store, shards: Sequence[Shard]) -> Path:
    """Copy shards to this machine, once for all its workers."""
    folder = cache_root() / "tokens" / hashlib.sha256(store.root.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        local = LocalStore(str(folder))
        for shard in shards:
            if not local.exists(shard.file):
                local.put(shard.file, store.read_bytes(shard.file))
    return folder
