"""The fall-back forward pass for families without a packed trunk: transformers' own classifier, over padded rows."""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForSequenceClassification

from models.bundle import Bundle

log = logging.getLogger("verbatim.models")


class TransformersForward:
    """Rows are padded to the batch's longest text; a plain classifier has one head."""

    def __init__(self, bundle: Bundle, dtype: torch.dtype, device: torch.device) -> None:
        log.warning("bundle %s has no packed trunk here: it runs padded, through transformers", bundle)
        config = AutoConfig.from_pretrained(str(bundle.folder), local_files_only=True, trust_remote_code=False)
        self._pad, self._device = config.pad_token_id or 0, device
        self._model = AutoModelForSequenceClassification.from_pretrained(
            str(bundle.folder), config=config, local_files_only=True, use_safetensors=True, dtype=dtype
        )
        self._model.to(device).eval()

    @torch.inference_mode()
    def __call__(self, ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> list[torch.Tensor]:
        """One padded pass."""
        is_real = np.arange(int(lengths.max())) < lengths[:, None]
        padded = np.full(is_real.shape, self._pad, dtype=np.int64)
        padded[is_real] = ids
        input_ids, mask = (torch.from_numpy(a).to(self._device) for a in (padded, is_real.astype(np.int64)))
        return [self._model(input_ids=input_ids, attention_mask=mask).logits.float().cpu()]
