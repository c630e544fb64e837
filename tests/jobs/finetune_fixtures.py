"""The parent bundle, small data and settings for the tests of fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.config import parse_config
from jobs.finetune.data import Data, read_data
from jobs.finetune.settings import FinetuneSettings
from models.bundle import Bundle
from tests.tiny import tiny_bundle

GOOD, BAD = ["good", "great", "nice", "好", "喜欢"], ["bad", "poor", "sad", "差", "讨厌"]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("parents") / "tiny")


def reviews(num: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [{"text": f"{' '.join(rng.choice((BAD, GOOD)[i % 2], 2))} {i}", "label": "bg"[i % 2]} for i in range(num)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def settings_of(path: Path, **changes: Any) -> FinetuneSettings:
    plain = {"input": str(path), "output": str(path.parent / "out"), "threads": 1, "precision": "fp32", **changes}
    return parse_config(plain, FinetuneSettings, "test")


def data_of(path: Path, rows: list[dict[str, Any]], parent: Bundle, **changes: Any) -> Data:
    return read_data(settings_of(write(path / "mine.jsonl", rows), **changes), parent)
