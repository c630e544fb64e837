"""infinity in process: `AsyncEngineArray` on texts, `classify` with its dynamic batching."""

from __future__ import annotations

import asyncio
import atexit
import json

import numpy as np
import torch
from infinity_emb import AsyncEmbeddingEngine, EngineArgs
from infinity_emb.primitives import Device, InferenceEngine

from jobs.benchmark.contender import Answer, Order, Setting
from jobs.benchmark.work import Work


class Classify:
    """Texts into `AsyncEmbeddingEngine.classify`."""

    settings = (Setting(32),)
    note = "its own batching (32 rows), tokenising included; slots not counted"

    def __init__(self, order: Order, calibration: Work) -> None:
        torch.set_num_threads(order.threads)
        self._engine = AsyncEmbeddingEngine.from_args(
            EngineArgs(
                model_name_or_path=order.hf_folder,
                engine=InferenceEngine.torch,
                device=Device.cpu,
                batch_size=32,
                model_warmup=False,
            )
        )
        names = json.loads((order.model_path / "config.json").read_text(encoding="utf-8"))["id2label"]
        self._labels = [names[str(index)] for index in range(len(names))]
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._engine.astart())
        atexit.register(lambda: self._loop.run_until_complete(self._engine.astop()))

    def score(self, work: Work, setting: Setting) -> Answer:
        """Classify texts."""
        rows, _ = self._loop.run_until_complete(self._engine.classify(sentences=list(work.texts)))
        by_label = [{entry["label"]: entry["score"] for entry in row} for row in rows]
        probs = np.array([[row[label] for label in self._labels] for row in by_label], dtype=np.float32)
        return Answer(probs, slots=0)
