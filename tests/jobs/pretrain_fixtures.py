"""Small corpora, settings and crews for the tests of pretraining."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer
from torch import distributed

from cluster.config import parse_config
from jobs.train.crew import Crew
from jobs.train.pretrain_settings import PretrainSettings
from jobs.train.tokenizer import train_tokenizer
from jobs.train.trainer import Job, Trainer

EN = ["phone", "screen", "box", "battery", "price", "good", "great", "awful", "broken", "slow"]
ZH = ["手机", "屏幕", "包装", "物流", "电池", "很好", "失望", "糟糕", "喜欢"]


def documents(num: int, seed: int) -> list[str]:
    """Made-up documents of one to four sentences; every other one is Chinese."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(num):
        sizes = rng.integers(3, 8, rng.integers(1, 5))
        if index % 2:
            made.append("".join("".join(rng.choice(ZH, size)) + "。" for size in sizes))
        else:
            made.append(" ".join(" ".join(rng.choice(EN, size)) + "." for size in sizes))
    return made


def write_corpus(folder: Path) -> list[dict[str, Any]]:
    """Three sources: JSONL, Parquet under another column's name, plain text."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in documents(120, 1)]
    (folder / "a.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    pq.write_table(pa.table({"body": documents(60, 2)}), folder / "b.parquet")
    (folder / "c.txt").write_text("\n".join(documents(40, 3)) + "\n\n", encoding="utf-8")
    return [
        {"input": str(folder / "a.jsonl")},
        {"input": str(folder / "b.parquet"), "text": "body", "weight": 0.5},
        {"input": str(folder / "c.txt"), "weight": 2.0},
    ]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(documents(200, 1), 150, ("<|endoftext|>",))


def learn_tokenizer(folder: Path) -> str:
    """A vocabulary for all runs of a test: learning one breaks ties by chance."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    train_tokenizer(documents(200, 4), 150, ("<|endoftext|>",)).save(str(path))
    return str(path)


def plain_settings(data: list[dict[str, Any]], output: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a run of some seconds; a changed section keeps its other fields."""
    plain: dict[str, Any] = {
        "data": data,
        "output": str(output),
        "tokenizer": {"vocab_size": 150},
        "architecture": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_length": 32},
        "objective": {"sentence_order": True, "chinese_words": "chance"},
        "schedule": {"batch_tokens": 256, "epochs": 3, "max_steps": 12},
        "checkpoint": {"every_steps": 4},
        "precision": "fp32",
        "device": "cpu",
        "threads": 1,
    }
    for name, change in changes.items():
        plain[name] = {**plain[name], **change} if isinstance(plain.get(name), dict) else change
    return plain


def settings(data: list[dict[str, Any]], output: Path, **changes: Any) -> PretrainSettings:
    return parse_config(plain_settings(data, output, **changes), PretrainSettings, "test")


def crew_member(rank: int, size: int, job: Job, meeting: str) -> None:
    """One worker of a crew on this machine; to be spawned."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    try:
        Trainer(job, Crew(rank, size, torch.device("cpu"))).run()
    finally:
        distributed.destroy_process_group()
