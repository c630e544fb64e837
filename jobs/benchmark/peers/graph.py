"""The model as an ONNX graph, for the engines that take one: ids and mask in, logits out, both sizes free."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from jobs.benchmark.contender import Order


class _Plain(torch.nn.Module):
    """Only what is asked of the graph: two inputs, one output."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.whole(input_ids=input_ids, attention_mask=attention_mask).logits  # type: ignore[no-any-return]


def export(order: Order) -> Path:
    """Write `model.onnx` to the order's scratch folder and give its path."""
    whole = AutoModelForSequenceClassification.from_pretrained(order.hf_folder, attn_implementation="eager").eval()
    path = Path(order.scratch) / "model.onnx"
    ids = torch.ones(2, 16, dtype=torch.int64)
    axes = {0: "texts", 1: "slots"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(
            _Plain(whole),
            (ids, torch.ones_like(ids)),
            str(path),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": {0: "texts"}},
            opset_version=17,
            dynamo=False,
        )
    return path
