"""The teacher: asked once about every text, by the packed engine; its answers are kept as Parquet.

Parts of `PART_TEXTS` texts are put in place whole, so that a killed run asks only about what is left. One row a text;
columns, each only if a loss needs it: `embedding` (D), `logits` (all heads' end to end), `spans` (2 W), `words` (W D),
`relations` (3 W D: query, key and value of the last layer). Vectors are in half precision: of 20 words and 384 numbers
a text takes 0.8 KB for its vector, 15 KB for its words, 46 KB for relations, on disk and later in memory.
Given up: families without a packed trunk, and heads that tag tokens.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import nn

from jobs.distil.settings import DistilError, LossSettings
from jobs.distil.words import Words, words_of
from jobs.train.corpus import take_tokens
from models.architecture import Architecture
from models.batching import batches
from models.bundle import Bundle
from models.forward import DTYPES, PackedForward
from models.heads import HeadSpec
from models.precision import Precision
from models.readout import Readout
from models.tokeniser import Tokens
from models.weights import load_trunk

log = logging.getLogger("verbatim.distil")

PART_TEXTS = 1024
TOKEN_BUDGET = 4096
LOG_EVERY_S = 30

Columns = dict[str, list[NDArray[Any]]]


class Teacher:
    """A bundle's trunk, with the vector it gives a text and, if wanted, its heads and what it knows of words.

    Raises
    ------
    DistilError : a family without a packed trunk, or logits of a bundle without heads that answer for a text.
    """

    def __init__(self, bundle: Bundle, losses: LossSettings, precision: Precision, device: torch.device) -> None:
        arch = bundle.spec.architecture
        if not isinstance(arch, Architecture):
            raise DistilError(
                f"teacher {bundle} is of the family {arch.model_type}, which has no packed trunk here; Megatron-BERT, "
                "BERT, RoBERTa and XLM-RoBERTa have one"
            )
        self.bundle, self._losses = bundle, losses
        self.heads = answering_heads(bundle) if losses.logits else ()
        tensors = bundle.tensors()
        readout = Readout([_embedding(bundle, arch), *self.heads], tensors, device)
        trunk = load_trunk(arch, tensors, has_pooler="pooler" in readout.poolings).eval().to(device, DTYPES[precision])
        self._forward = PackedForward(trunk, readout)
        self._states: dict[str, torch.Tensor] = {}
        _listen(trunk, "words", self._states)
        _listen(trunk.layers[-1].get_submodule("attention.qkv"), "relations", self._states)

    def answer(self, texts: Sequence[str]) -> pa.Table:
        """One row a text, in their order."""
        tokens = self.bundle.tokeniser.encode(texts, with_offsets=self._losses.need_words)
        columns: Columns = {}
        order: list[int] = []
        for rows in batches(tokens.lengths, TOKEN_BUDGET):
            for name, cells in self._batch(take_tokens(tokens, rows)).items():
                columns.setdefault(name, []).extend(cells)
            order += rows.tolist()
        back = pa.array(np.argsort(order))
        return pa.table({name: _lists(cells) for name, cells in columns.items()}).take(back)

    def _batch(self, tokens: Tokens) -> Columns:
        embedding, *logits = self._forward(tokens.ids, tokens.lengths)
        columns: Columns = {"embedding": list(embedding.cpu().numpy().astype(np.float16))}
        if logits:
            columns["logits"] = list(torch.cat(logits, dim=1).cpu().numpy())
        if self._losses.need_words:
            words = words_of(tokens)
            ends = np.cumsum(np.bincount(words.texts, minlength=len(tokens)))[:-1]
            columns["spans"] = [part.ravel() for part in np.split(words.spans, ends)]
            columns |= {name: self._of_words(name, words, ends) for name in ("words", "relations") if self._wants(name)}
        return columns

    def _wants(self, loss: str) -> bool:
        return bool(getattr(self._losses, loss))

    def _of_words(self, name: str, words: Words, ends: NDArray[np.int64]) -> list[NDArray[Any]]:
        states = words.mean(self._states[name]).cpu().numpy().astype(np.float16)
        return [part.ravel() for part in np.split(states, ends)]


def answering_heads(bundle: Bundle) -> tuple[HeadSpec, ...]:
    """Heads that give logits for a text.

    Raises
    ------
    DistilError : there is none.
    """
    heads = tuple(head for head in bundle.spec.heads if head.kind in ("single", "ordinal", "multi"))
    if not heads:
        raise DistilError(f"losses.logits: teacher {bundle} has no head that answers for a text; leave logits at 0")
    return heads


def _embedding(bundle: Bundle, arch: Architecture) -> HeadSpec:
    """The teacher's own vector of a text, else the mean."""
    own = next((head for head in bundle.spec.heads if head.kind == "embedding"), None)
    return own or HeadSpec(name="embedding", kind="embedding", size=arch.hidden_size, pooling="mean")


def _listen(module: nn.Module, name: str, states: dict[str, torch.Tensor]) -> None:
    def keep(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        states[name] = output

    module.register_forward_hook(keep)


def _lists(cells: Sequence[NDArray[np.generic]]) -> pa.Array:
    bounds = np.cumsum([0, *(len(cell) for cell in cells)])
    return pa.LargeListArray.from_arrays(pa.array(bounds, pa.int64()), pa.array(np.concatenate(cells)))


def ask(teacher: Teacher, texts: Sequence[str], folder: Path) -> None:
    """Put the answers about all texts into `folder`, going on from what stands there."""
    folder.mkdir(parents=True, exist_ok=True)
    spoken = time.monotonic()
    for begin in range(0, len(texts), PART_TEXTS):
        path = _part(folder, begin)
        if not path.exists():
            unfinished = path.with_suffix(".part")
            pq.write_table(teacher.answer(texts[begin : begin + PART_TEXTS]), unfinished, compression="zstd")
            unfinished.replace(path)
        if time.monotonic() - spoken > LOG_EVERY_S:
            spoken = time.monotonic()
            log.info("teacher: %d of %d texts", min(begin + PART_TEXTS, len(texts)), len(texts))


def _part(folder: Path, begin: int) -> Path:
    return folder / f"part-{begin // PART_TEXTS:05d}.parquet"


@dataclass(frozen=True)
class Lesson:
    """What the teacher says of N texts; tensors are None where it wasn't asked.

    embedding : (N, D). logits : (N, all heads' labels). word_bounds : (N + 1,) where a text's words begin and end.
    spans : (W, 2). words : (W, D). relations : (W, 3 D).
    """

    embedding: torch.Tensor
    logits: torch.Tensor | None = None
    word_bounds: NDArray[np.int64] | None = None
    spans: NDArray[np.int32] | None = None
    words: torch.Tensor | None = None
    relations: torch.Tensor | None = None

    @property
    def size(self) -> int:
        """D, of the teacher."""
        return self.embedding.shape[1]


def read_lesson(folder: Path, num_texts: int) -> Lesson:
    """Read back all answers."""
    parts = [pq.read_table(_part(folder, begin)) for begin in range(0, num_texts, PART_TEXTS)]
    table = pa.concat_tables(parts).combine_chunks()
    lists = {name: table[name].chunk(0) for name in table.column_names}
    values = {name: column.flatten().to_numpy(zero_copy_only=False) for name, column in lists.items()}
    size = len(values["embedding"]) // num_texts

    def matrix(name: str, width: int) -> torch.Tensor | None:
        return torch.from_numpy(values[name].reshape(-1, width).copy()) if name in values else None

    return Lesson(
        embedding=torch.from_numpy(values["embedding"].reshape(-1, size).copy()),
        logits=matrix("logits", len(values.get("logits", ())) // num_texts),
        word_bounds=lists["spans"].offsets.to_numpy() // 2 if "spans" in lists else None,
        spans=values["spans"].reshape(-1, 2) if "spans" in lists else None,
        words=matrix("words", size),
        relations=matrix("relations", 3 * size),
    )
