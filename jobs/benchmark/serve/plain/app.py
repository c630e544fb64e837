"""The peer that most people write: a Ray Serve deployment with `@serve.batch` around transformers' `pipeline()`.

Every text of a request goes into the batch by itself, which is what `@serve.batch` is for. fp32 is asked for: by
default transformers 5 computes in the checkpoint's own type, and with the starter's fp16 the pipeline does 45 texts a
second of CPU time where fp32 does 117 (22 Nov 2026).
"""

from __future__ import annotations

import asyncio
from typing import Any

import torch
from ray import serve
from ray.serve import Application
from starlette.requests import Request
from transformers import pipeline

_BATCH = 32
_WAIT_S = 0.01
_ONGOING = 256  # Serve's default of 5 would leave the batches empty


class Classifier:
    """One copy of the model."""

    def __init__(self, folder: str) -> None:
        self._pipe = pipeline("text-classification", model=folder, top_k=None, dtype=torch.float32)

    @serve.batch(max_batch_size=_BATCH, batch_wait_timeout_s=_WAIT_S)
    async def classify(self, texts: list[str]) -> list[Any]:
        """Score a batch."""
        scores: list[Any] = self._pipe(texts, truncation=True)
        return scores

    async def __call__(self, request: Request) -> dict[str, Any]:
        """`{"texts": […]}` in, `{"scores": […]}` out."""
        texts = (await request.json())["texts"]
        return {"scores": await asyncio.gather(*(self.classify(text) for text in texts))}


def build(folder: str, num_cpus: int) -> Application:
    """Bind it to a Hugging Face folder; Ray gives the replica as many threads as CPUs."""
    deployment: Any = serve.deployment(Classifier)
    options = {"max_ongoing_requests": _ONGOING, "ray_actor_options": {"num_cpus": num_cpus}}
    application: Application = deployment.options(**options).bind(folder)
    return application
