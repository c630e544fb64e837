"""sentence-transformers: `encode` of texts, which sorts by length itself; pooler and classifier are its Dense modules.

Only the batch size is tuned, as its users do. Its answers are logits, so they can be held against ours.
"""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense, Pooling, Transformer
from transformers import AutoModelForSequenceClassification

from jobs.benchmark.contender import Answer, Order, Setting, softmax
from jobs.benchmark.peers.with_transformers import SlotCounter
from jobs.benchmark.work import Work


class Encode:
    """Texts into `SentenceTransformer.encode`."""

    settings = (Setting(4), Setting(8), Setting(16), Setting(32), Setting(64))
    note = "sorts by itself, batch size tuned, tokenising included"

    def __init__(self, order: Order, calibration: Work) -> None:
        torch.set_num_threads(order.threads)
        trunk = Transformer(order.hf_folder)
        whole = AutoModelForSequenceClassification.from_pretrained(order.hf_folder)
        self._model = SentenceTransformer(modules=[trunk, Pooling(whole.config.hidden_size, "cls"), *_dense(whole)])
        self._counter = SlotCounter(trunk.auto_model)

    def score(self, work: Work, setting: Setting) -> Answer:
        """Encode texts."""
        logits = self._model.encode(list(work.texts), batch_size=setting.budget, show_progress_bar=False)
        return Answer(softmax(logits), self._counter.take())


def _dense(whole: Any) -> list[Dense]:
    """Pooler and classifier of the checkpoint as modules of sentence-transformers."""
    parts = ((whole.bert.pooler.dense, torch.nn.Tanh()), (whole.classifier, torch.nn.Identity()))
    layers = []
    for linear, activation in parts:
        layer = Dense(linear.in_features, linear.out_features, activation_function=activation)
        layer.linear.load_state_dict(linear.state_dict())
        layers.append(layer)
    return layers
