"""transformers: as most people call it, and as the most careful of them do.

`Pipeline` is `pipeline("text-classification")` on a list of texts with every default but one: it computes in fp32,
where transformers 5 would take the checkpoint's type, and fp16 is slower on CPUs. `Sorted` is the best that can be had
by hand: token ids sorted by length, padded batches within a tuned budget of slots, bf16 where the machine has it.
Megatron-BERT has eager attention only in transformers 5.23; SDPA is asked for first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, pipeline

from jobs.benchmark.contender import Answer, Order, Setting, padded_batches, rectangle, softmax
from jobs.benchmark.work import Work

_BUDGETS = (256, 512, 1024, 2048, 4096, 8192)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class SlotCounter:
    """Counts the token slots that a torch model is given, padding included."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.slots = 0
        model.get_submodule("embeddings.word_embeddings").register_forward_pre_hook(self._count)

    def take(self) -> int:
        """Slots since the last call."""
        slots, self.slots = self.slots, 0
        return slots

    def _count(self, module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        self.slots += inputs[0].numel()


class Pipeline:
    """A list of texts into `pipeline()`, batch size and padding left alone."""

    settings = (Setting(1),)
    note = "one text a batch (its default), tokenising included"

    def __init__(self, order: Order, calibration: Work) -> None:
        torch.set_num_threads(order.threads)
        self._pipe = pipeline("text-classification", model=order.hf_folder, dtype=torch.float32)
        self._labels = [self._pipe.model.config.id2label[i] for i in range(self._pipe.model.config.num_labels)]
        self._counter = SlotCounter(self._pipe.model.bert)

    def score(self, work: Work, setting: Setting) -> Answer:
        """Score texts; all labels are asked for, which costs it nothing."""
        rows = self._pipe(list(work.texts), top_k=None)
        by_label = [{entry["label"]: entry["score"] for entry in row} for row in rows]
        probs = np.array([[row[label] for label in self._labels] for row in by_label], dtype=np.float32)
        return Answer(probs, self._counter.take())


class Sorted:
    """Token ids, longest first, in padded batches of at most `budget` slots."""

    settings = tuple(Setting(budget) for budget in _BUDGETS)

    def __init__(self, order: Order, calibration: Work) -> None:
        torch.set_num_threads(order.threads)
        self._model, attention = _load(order)
        self.note = f"{attention} attention, length-sorted"

    @torch.inference_mode()
    def score(self, work: Work, setting: Setting) -> Answer:
        """Score token ids."""
        probs = np.empty((len(work), self._model.config.num_labels), np.float32)
        slots = 0
        for rows in padded_batches(work.lengths, setting.budget):
            ids, mask = (torch.from_numpy(part) for part in rectangle(work, rows))
            logits = self._model(input_ids=ids, attention_mask=mask).logits
            probs[rows] = softmax(logits.float().numpy())
            slots += ids.numel()
        return Answer(probs, slots)


def _load(order: Order) -> tuple[Any, str]:
    for attention in ("sdpa", "eager"):
        try:
            model = AutoModelForSequenceClassification.from_pretrained(
                order.hf_folder, dtype=_DTYPES[order.precision], attn_implementation=attention
            )
        except ValueError:  # the family has no such attention
            continue
        return model.eval(), attention
    raise ValueError(f"transformers has no attention for the model in {order.hf_folder}")
