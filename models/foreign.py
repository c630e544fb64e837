"""The fall-back forward pass for families without a packed trunk: transformers' own model, over padded rows.

The scorer's batches are longest first and cut by real tokens; here each is cut again, so that padded slots are few and
one giant text among tiny ones doesn't pad them all to its length. One head, as transformers has it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from models.bundle import Bundle
from models.heads import HeadSpec

log = logging.getLogger("verbatim.models")

SLOTS_A_TOKEN = 1.125  # padded slots of one pass over the real tokens of the batch


class TransformersForward:
    """A sequence classifier, a token classifier, or an encoder whose hidden states are pooled here."""

    first_only = False

    def __init__(self, bundle: Bundle, dtype: torch.dtype, device: torch.device) -> None:
        log.warning("bundle %s has no packed trunk here: it runs padded, through transformers", bundle)
        config = AutoConfig.from_pretrained(str(bundle.folder), local_files_only=True, trust_remote_code=False)
        self._pad, self._device = config.pad_token_id or 0, device
        (self._head,) = bundle.spec.heads
        self._model = _auto_class(self._head).from_pretrained(
            str(bundle.folder), config=config, local_files_only=True, use_safetensors=True, dtype=dtype
        )
        self._model.to(device).eval()

    @torch.inference_mode()
    def __call__(self, ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> list[torch.Tensor]:
        """One padded pass for each run of like lengths."""
        ends = np.cumsum(lengths, dtype=np.int64)
        runs = [(lengths[i:j], ids[ends[i] - lengths[i] : ends[j - 1]]) for i, j in padded_runs(lengths)]
        return [torch.cat([self._run(some_ids, some_lengths) for some_lengths, some_ids in runs])]

    def _run(self, ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> torch.Tensor:
        is_real = np.arange(int(lengths.max())) < lengths[:, None]
        padded = np.full(is_real.shape, self._pad, dtype=np.int64)
        padded[is_real] = ids
        input_ids, mask = (torch.from_numpy(a).to(self._device) for a in (padded, is_real.astype(np.int64)))
        return self._read(self._model(input_ids=input_ids, attention_mask=mask), mask).float().cpu()

    def _read(self, output: Any, mask_bs: torch.Tensor) -> torch.Tensor:
        """B x C, T x C of a token head, or B x D of an embedding."""
        if self._head.kind == "token":
            return output.logits[mask_bs.bool()]  # type: ignore[no-any-return]
        if self._head.kind != "embedding":
            return output.logits  # type: ignore[no-any-return]
        if self._head.pooling == "pooler":
            return output.pooler_output  # type: ignore[no-any-return]
        if self._head.pooling == "first":
            return output.last_hidden_state[:, 0]  # type: ignore[no-any-return]
        mask_bs1 = mask_bs[:, :, None].float()
        return (output.last_hidden_state.float() * mask_bs1).sum(1) / mask_bs1.sum(1)  # type: ignore[no-any-return]


def padded_runs(lengths: NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    """Cut a batch, in its order, into runs of at most `SLOTS_A_TOKEN` padded slots for each real token of the batch."""
    slots, begin = int(lengths.sum() * SLOTS_A_TOKEN), 0
    while begin < len(lengths):
        end = min(len(lengths), begin + max(1, slots // int(lengths[begin:].max())))
        yield begin, end
        begin = end


def _auto_class(head: HeadSpec) -> Any:
    if head.kind == "token":
        return AutoModelForTokenClassification
    return AutoModel if head.kind == "embedding" else AutoModelForSequenceClassification
