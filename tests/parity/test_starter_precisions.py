"""The shipped bundle keeps the stated tolerance between precisions, on texts like customers'."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from jobs.demo.corpus import write_corpus
from models.clean import clean
from models.fetch import fetch
from models.heads import SENTIMENT_LABELS
from models.scorer import Scorer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("demo")
    write_corpus(folder, 600, 1)
    return [text for path in sorted((folder / "corpus").rglob("*.jsonl*")) for text in read(path)]


def read(path: Path) -> list[str]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    found = []
    for line in data.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # planted: a broken line
        if isinstance(row["text"], str) and clean(row["text"]):
            found.append(clean(row["text"]))
    return found


def test_half_precision_stays_within_its_tolerance(texts: list[str]) -> None:
    bundle = fetch("starter").read_by(["sentiment"])
    tokens = bundle.tokeniser.encode(texts)
    assert len(tokens) > 550
    full, half = (score(Scorer(bundle, token_budget=4096, precision=p), tokens) for p in ("fp32", "bf16"))
    assert np.abs(full - half).max() < 2e-2
    ordered = np.sort(full, axis=1)
    is_near = ordered[:, 2] - ordered[:, 1] < 2e-2
    assert ((full.argmax(axis=1) == half.argmax(axis=1)) | is_near).all()


def score(scorer: Scorer, tokens: object) -> np.ndarray:
    table = scorer.score(tokens)
    return np.stack([table[f"prob_{label}"].to_numpy() for label in SENTIMENT_LABELS], axis=1)
