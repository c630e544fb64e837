"""The scorer: a bundle on a device, tokens in, columns of scores out. The only caller of a forward pass for scores.

The scoring job and the service both call `Scorer.score`, so a text has the same score offline and online. Texts are
batched by real tokens, longest first, and answered in the order they came. Rows are 1:1. A batch that doesn't fit the
device's memory is halved, again and again, and counted.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from models.architecture import Architecture
from models.batching import batches
from models.bundle import Bundle
from models.forward import build_forward
from models.gates import require
from models.heads import need_offsets
from models.memory import is_out_of_memory
from models.precision import Precision
from models.runners import Pending, start_runner
from models.tokeniser import Tokens

log = logging.getLogger("verbatim.models")


class Scorer:
    """A bundle's trunk and heads, ready to answer.

    Parameters
    ----------
    token_budget : most real tokens in one forward pass; a single longer text goes alone.
    precision : of the trunk; heads and probabilities are always fp32.
    device : as torch names it, `cpu` or `cuda`.
    threads : cores that compute, each a batch of its own (CPU).
    is_gated : whether the bundle's record of what a precision does to its answers is heeded; only what makes that
        record may look away.

    Raises
    ------
    ValueError : a precision that the bundle refuses or that can't be had here, or weights that aren't the bundle's.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        token_budget: int,
        precision: Precision = "fp32",
        device: str = "cpu",
        threads: int = 1,
        is_gated: bool = True,
    ) -> None:
        if is_gated:
            require(bundle, precision)
        self.bundle, self.token_budget = bundle, token_budget
        self.num_halved = 0
        forward = build_forward(bundle, precision, torch.device(device))
        self._first_only = forward.first_only
        self._runner = start_runner(forward, torch.device(device), threads)

    @property
    def schema(self) -> pa.Schema:
        """Columns of `score`, in order: each head's, in the bundle's order."""
        return pa.schema([field for head in self.bundle.spec.heads for field in head.schema])

    @property
    def depth(self) -> int:
        """Batches that are under way at once."""
        return self._runner.depth

    def flops(self, tokens: Tokens) -> int | None:
        """Operations that scoring these texts takes; None for a family whose sizes aren't known here."""
        arch, lengths = self.bundle.spec.architecture, tokens.lengths.astype(np.int64)
        if not isinstance(arch, Architecture):
            return None
        num_firsts = len(tokens) if self._first_only else None
        return arch.flops(int(lengths.sum()), int((lengths**2).sum()), num_firsts=num_firsts)

    def score(self, tokens: Tokens) -> pa.Table:
        """Score texts; one row a text, in their order.

        Raises
        ------
        ValueError : a text of no tokens or over the bundle's max_length, or no offsets for a token head.
        """
        heads = self.bundle.spec.heads
        self._check(tokens)
        outputs = [
            np.empty((tokens.num_tokens if head.reads_tokens else len(tokens), head.num_outputs), np.float32)
            for head in heads
        ]
        for rows, places, answers in self._answers(tokens):
            for head, whole, part in zip(heads, outputs, answers, strict=True):
                whole[places if head.reads_tokens else rows] = part.numpy()
        arrays = [array for head, some in zip(heads, outputs, strict=True) for array in head.columns(some, tokens)]
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def _answers(self, tokens: Tokens) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], list[torch.Tensor]]]:
        """For each batch: which texts, where their tokens stand, the heads' outputs. The next are under way."""
        starts = np.cumsum(tokens.lengths, dtype=np.int64) - tokens.lengths
        under_way: deque[tuple[NDArray[np.int64], NDArray[np.int64], Pending]] = deque()

        def start(rows: NDArray[np.int64]) -> None:
            places = _places(starts[rows], tokens.lengths[rows])
            under_way.append((rows, places, self._start(tokens.ids[places], tokens.lengths[rows])))

        waiting = batches(tokens.lengths, self.token_budget)
        while True:
            while len(under_way) < self._runner.depth and (rows := next(waiting, None)) is not None:
                start(rows)
            if not under_way:
                return
            rows, places, pending = under_way.popleft()
            try:
                yield rows, places, pending.result()
            except (RuntimeError, MemoryError) as error:
                if len(rows) == 1 or not is_out_of_memory(error):
                    raise
                self.num_halved += 1
                log.warning("out of memory at %d tokens in one pass: halved", len(places))
                for half in np.array_split(rows, 2):
                    start(half)

    def _start(self, ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> Pending:
        """Start a batch; that it doesn't even start is found where its answers are waited for."""
        try:
            return self._runner.submit(ids, lengths)
        except (RuntimeError, MemoryError) as error:
            failed: Future[list[torch.Tensor]] = Future()
            failed.set_exception(error)
            return failed

    def _check(self, tokens: Tokens) -> None:
        limit = self.bundle.spec.max_length
        if len(tokens) and int(tokens.lengths.max()) > limit:
            raise ValueError(f"a text must have at most {limit} tokens, got {tokens.lengths.max()}")
        if tokens.offsets is None and need_offsets(self.bundle.spec.heads):
            raise ValueError(f"bundle {self.bundle} has a token head: its texts must be tokenised with offsets")


def _places(starts: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.int64]:
    """Indices of the tokens of the chosen texts, end to end."""
    ends = np.cumsum(lengths, dtype=np.int64)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1])
