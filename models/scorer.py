"""The scorer: a bundle on a device, tokens in, columns of scores out. The only caller of a forward pass for scores.

The scoring job and the service both call `Scorer.score`, so a text has the same score offline and online. Texts are
batched by real tokens, longest first, and answered in the order they came. Rows are 1:1.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from models.architecture import Architecture
from models.batching import batches
from models.bundle import Bundle
from models.forward import build_forward
from models.precision import Precision
from models.tokeniser import Tokens


class Scorer:
    """A bundle's trunk and heads, ready to answer.

    Parameters
    ----------
    token_budget : most real tokens in one forward pass; a single longer text goes alone.
    precision : of the trunk; heads and probabilities are always fp32.
    device : as torch names it, `cpu` or `cuda`.
    """

    def __init__(
        self, bundle: Bundle, *, token_budget: int, precision: Precision = "fp32", device: str = "cpu"
    ) -> None:
        self.bundle, self.token_budget = bundle, token_budget
        self._forward = build_forward(bundle, precision, torch.device(device))

    @property
    def schema(self) -> pa.Schema:
        """Columns of `score`, in order: each head's, in the bundle's order."""
        return pa.schema([field for head in self.bundle.spec.heads for field in head.schema])

    def flops(self, tokens: Tokens) -> int | None:
        """Operations that scoring these texts takes; None for a family whose sizes aren't known here."""
        arch, lengths = self.bundle.spec.architecture, tokens.lengths.astype(np.int64)
        return arch.flops(int(lengths.sum()), int((lengths**2).sum())) if isinstance(arch, Architecture) else None

    def score(self, tokens: Tokens) -> pa.Table:
        """Score texts; one row a text, in their order.

        Raises
        ------
        ValueError : a text of no tokens or over the bundle's max_length.
        """
        heads, limit = self.bundle.spec.heads, self.bundle.spec.max_length
        if len(tokens) and int(tokens.lengths.max()) > limit:
            raise ValueError(f"a text must have at most {limit} tokens, got {tokens.lengths.max()}")
        logits = [np.empty((len(tokens), len(head.labels)), np.float32) for head in heads]
        starts = np.cumsum(tokens.lengths, dtype=np.int64) - tokens.lengths
        for rows in batches(tokens.lengths, self.token_budget):
            answers = self._forward(_gather(tokens.ids, starts[rows], tokens.lengths[rows]), tokens.lengths[rows])
            for whole, part in zip(logits, answers, strict=True):
                whole[rows] = part.numpy()
        arrays = [array for head, some in zip(heads, logits, strict=True) for array in head.columns(some)]
        return pa.Table.from_arrays(arrays, schema=self.schema)


def _gather(ids: NDArray[np.int32], starts: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.int32]:
    """Token ids of the chosen texts, end to end."""
    ends = np.cumsum(lengths, dtype=np.int64)
    offsets = np.repeat(starts - (ends - lengths), lengths)
    chosen: NDArray[np.int32] = ids[offsets + np.arange(ends[-1])]
    return chosen
