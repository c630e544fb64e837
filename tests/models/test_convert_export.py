"""What is exported answers as the bundle does: in transformers, and in ONNX Runtime."""

import importlib
import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from models.bundle import Bundle
from models.convert import to_triton
from models.convert.__main__ import main
from models.fetch import fetch
from models.heads import HeadSpec
from models.scorer import Scorer
from tests.tiny import HEADS, tiny_bundle

pytestmark = pytest.mark.slow

TEXTS = ["质量很好", "a", "slow delivery, bad", "好" * 30, "x y z"]
EVERY_KIND = (
    *HEADS,
    HeadSpec(name="topics", kind="multi", labels=("price", "quality"), temperature=0.7),
    HeadSpec(name="aspects", kind="token", labels=("O", "B-x", "I-x")),
    HeadSpec(name="mean", kind="embedding", size=32, pooling="mean", normalise=True),
    HeadSpec(name="first", kind="embedding", size=32, pooling="first"),
)


@pytest.fixture
def onnxruntime() -> ModuleType:
    """The extra `export`; CI has it."""
    if "CI" in os.environ:
        return importlib.import_module("onnxruntime")
    return pytest.importorskip("onnxruntime", reason="the extra 'export' isn't installed")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "tiny")


def padded(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids padded with a word that is real elsewhere, and the mask."""
    tokens = bundle.tokeniser.encode(TEXTS)
    is_real = np.arange(int(tokens.lengths.max())) < tokens.lengths[:, None]
    ids = np.full(is_real.shape, 7, np.int64)
    ids[is_real] = tokens.ids
    return ids, is_real.astype(np.int64)


def scores(bundle: Bundle, columns: list[str]) -> np.ndarray:
    table = Scorer(bundle, token_budget=50).score(bundle.tokeniser.encode(TEXTS, with_offsets=True))
    return np.stack([table.column(name).to_numpy() for name in columns], axis=1)


@pytest.mark.parametrize("family", ["megatron-bert", "bert"])
@torch.inference_mode()
def test_a_hugging_face_folder_gives_the_bundles_scores(
    tmp_path: Path, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tiny_bundle(tmp_path / "source", family=family)
    out = tmp_path / "out"
    assert main(["export", str(bundle.folder), str(out), "--to", "huggingface", "--head", "sentiment"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{bundle}, head sentiment -> {out}"
    model = AutoModelForSequenceClassification.from_pretrained(str(out)).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(out))
    assert model.config.id2label == {0: "negative", 1: "neutral", 2: "positive"}
    encoded = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt", return_token_type_ids=False)
    probs = torch.softmax(model(**encoded).logits / 1.5, dim=-1)  # the head's temperature
    columns = ["prob_negative", "prob_neutral", "prob_positive"]
    np.testing.assert_allclose(probs.numpy(), scores(bundle, columns), atol=1e-5)
    assert "softmax(logits / 1.5)" in (out / "README.md").read_text()


def test_there_and_back(tmp_path: Path, bundle: Bundle) -> None:
    assert main(["export", str(bundle.folder), str(tmp_path / "hf"), "--to", "huggingface", "--head", "stars"]) == 0
    assert main(["import", str(tmp_path / "hf"), str(tmp_path / "back")]) == 0
    back = fetch(str(tmp_path / "back"))
    columns = [f"prob_stars_{grade}" for grade in range(1, 6)]
    np.testing.assert_allclose(scores(back, columns), scores(bundle, columns), atol=1e-6)


@pytest.mark.parametrize("head", [[], ["--head", "nosuch"]])
def test_a_head_must_be_chosen(
    tmp_path: Path, bundle: Bundle, head: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(bundle.folder), str(tmp_path / "out"), "--to", "huggingface", *head]) == 2
    assert "--head must be one of ['sentiment', 'stars'], got " in capsys.readouterr().err
    assert list(tmp_path.glob("out*")) == []


def test_heads_that_transformers_would_read_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = tiny_bundle(tmp_path / "first", heads=(HeadSpec(name="label", labels=("a", "b"), pooling="first"),))
    assert main(["export", str(first.folder), str(tmp_path / "out"), "--to", "huggingface"]) == 2
    assert "head label: a megatron-bert that reads first isn't exported" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["megatron-bert", "bert", "roberta"])
def test_a_triton_model_gives_the_bundles_scores(
    tmp_path: Path, family: str, onnxruntime: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tiny_bundle(tmp_path / "source", family=family, heads=EVERY_KIND)
    assert main(["export", str(bundle.folder), str(tmp_path / "repository"), "--to", "triton"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{bundle} -> {tmp_path / 'repository' / 'tiny'}"
    session = onnxruntime.InferenceSession(tmp_path / "repository" / "tiny" / "1" / "model.onnx")
    ids, mask = padded(bundle)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"input_ids": ids, "attention_mask": mask}), strict=True))
    for name, columns in {
        "probs_sentiment": ["prob_negative", "prob_neutral", "prob_positive"],
        "probs_stars": [f"prob_stars_{grade}" for grade in range(1, 6)],
        "probs_topics": ["prob_topics_price", "prob_topics_quality"],
    }.items():
        np.testing.assert_allclose(found[name], scores(bundle, columns), atol=1e-4)
    for name in ("mean", "first"):
        vectors = np.stack([row[0] for row in scores(bundle, [name])])
        np.testing.assert_allclose(found[name], vectors, atol=1e-4)
    assert found["probs_aspects"].shape == (*ids.shape, 3)


def test_padding_and_neighbours_do_not_matter(tmp_path: Path, bundle: Bundle, onnxruntime: ModuleType) -> None:
    assert main(["export", str(bundle.folder), str(tmp_path), "--to", "triton"]) == 2  # tiny stands there already
    assert main(["export", str(bundle.folder), str(tmp_path / "repository"), "--to", "triton"]) == 0
    session = onnxruntime.InferenceSession(tmp_path / "repository" / "tiny" / "1" / "model.onnx")
    ids, mask = padded(bundle)
    together = session.run(["logits_stars"], {"input_ids": ids, "attention_mask": mask})[0]
    for row, length in enumerate(mask.sum(axis=1)):
        one = {"input_ids": ids[row : row + 1, :length], "attention_mask": mask[row : row + 1, :length]}
        np.testing.assert_allclose(session.run(["logits_stars"], one)[0][0], together[row], atol=1e-5)


@pytest.mark.usefixtures("onnxruntime")
def test_the_repository_is_as_triton_reads_it(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "source", heads=EVERY_KIND)
    assert main(["export", str(bundle.folder), str(tmp_path / "repository"), "--to", "triton"]) == 0
    folder = tmp_path / "repository" / "tiny"
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == [
        "1/model.onnx",
        "config.pbtxt",
        "labels_aspects.txt",
        "labels_sentiment.txt",
        "labels_stars.txt",
        "labels_topics.txt",
        "tokenizer.json",
    ]
    assert (folder / "labels_topics.txt").read_text() == "price\nquality\n"
    config = (folder / "config.pbtxt").read_text()
    assert re.findall(r'name: "(\w+)" data_type: (\w+) dims: \[ ([-\d, ]+) \]', config) == [
        ("input_ids", "TYPE_INT64", "-1"),
        ("attention_mask", "TYPE_INT64", "-1"),
        ("logits_sentiment", "TYPE_FP32", "3"),
        ("probs_sentiment", "TYPE_FP32", "3"),
        ("logits_stars", "TYPE_FP32", "5"),
        ("probs_stars", "TYPE_FP32", "5"),
        ("logits_topics", "TYPE_FP32", "2"),
        ("probs_topics", "TYPE_FP32", "2"),
        ("logits_aspects", "TYPE_FP32", "-1, 3"),
        ("probs_aspects", "TYPE_FP32", "-1, 3"),
        ("mean", "TYPE_FP32", "32"),
        ("first", "TYPE_FP32", "32"),
    ]
    assert 'platform: "onnxruntime_onnx"\nmax_batch_size: 64\ndynamic_batching {' in config
    assert config.count("{") == config.count("}") and config.count("[") == config.count("]")


@pytest.mark.usefixtures("onnxruntime")
def test_an_export_that_differs_is_not_kept(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(to_triton, "TOLERANCE", 0.0)
    assert main(["export", str(bundle.folder), str(tmp_path / "repository"), "--to", "triton"]) == 2
    assert "ONNX output logits_sentiment differs by " in capsys.readouterr().err
    assert list((tmp_path / "repository").iterdir()) == []


@pytest.mark.parametrize("missing", ["onnxscript", "onnxruntime"])
def test_without_the_extra(
    tmp_path: Path,
    bundle: Bundle,
    missing: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["export", str(bundle.folder), str(tmp_path / "repository"), "--to", "triton"]) == 2
    assert "pip install 'verbatim[export]'" in capsys.readouterr().err


def test_the_tokeniser_goes_along(tmp_path: Path, bundle: Bundle) -> None:
    assert main(["export", str(bundle.folder), str(tmp_path / "out"), "--to", "huggingface", "--head", "stars"]) == 0
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["model_max_length"] == bundle.spec.max_length
    theirs = AutoTokenizer.from_pretrained(str(tmp_path / "out"))(TEXTS).input_ids
    tokens = bundle.tokeniser.encode(TEXTS)
    assert [i for row in theirs for i in row] == tokens.ids.tolist()


@pytest.mark.parametrize("command", [["--help"], ["import", "--help"], ["export", "--help"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(command)
    assert done.value.code == 0
    assert "usage: python -m models.convert" in capsys.readouterr().out
