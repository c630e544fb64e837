"""The whole job on a bundle of random weights: files, exit codes, and nothing of a text in the log or on a page."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.evaluate.__main__ import main
from models.bundle import Bundle, load_bundle
from models.gates import GATES_FILE, Gate, require
from models.heads import HeadSpec
from models.scorer import Scorer
from tests.tiny import HEADS, tiny_bundle

pytestmark = pytest.mark.slow

MORE_HEADS = (
    HeadSpec(name="topics", kind="multi", labels=("price", "food")),
    HeadSpec(name="aspects", kind="token", labels=("O", "B-food", "I-food")),
    HeadSpec(name="vector", kind="embedding", size=32),
)
PERSONAL = "the parcel of Jane Roe"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny", heads=(*HEADS, *MORE_HEADS)).folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "x.jsonl"
    words = ["good food", "slow staff", "好吃", "太贵", PERSONAL]
    with path.open("w", encoding="utf-8") as file:
        for i in range(120):
            row = {
                "text": f"{words[i % 5]} {i % 40}",
                "mood": ("negative", "positive")[i % 2],
                "stars": i % 5 + 1,
                "topics": [["food"], ["price"], []][i % 3],
                "spans": [[0, 4, "food"]] if i % 2 else [],
                "split": "train" if i < 80 else "dev",
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


@pytest.fixture
def plain(bundle: Path, data: Path) -> dict[str, Any]:
    labels = {"sentiment": {"column": "mood"}}
    return {"bundle": str(bundle), "sets": {"mine": {"input": str(data), "labels": labels}}}


LABELS = {"sentiment": "mood", "stars": "stars", "topics": "topics", "aspects": "spans"}


Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in this process: `run(settings, *overrides)`; the output is `tmp_path / "out"`."""

    def call(settings: dict[str, Any], *overrides: str) -> int:
        config = tmp_path / "e.yaml"
        config.write_text(yaml.safe_dump({"output": str(tmp_path / "out"), "threads": 1, **settings}, sort_keys=False))
        monkeypatch.setattr(sys, "argv", ["evaluate", str(config), *overrides])
        return main()

    return call


def test_every_kind_of_head_against_everything(
    tmp_path: Path, bundle: Path, data: Path, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    other = tiny_bundle(tmp_path / "other", seed=1)
    settings = {
        "bundle": str(bundle),
        "sets": {
            "mine": {"input": str(data), "labels": LABELS, "split": {"value": "dev"}},
            "bare": {"input": str(data), "split": {"value": "dev"}},
        },
        "compare_with": str(other.folder),
        "precisions": ["bf16"],
        "baseline": {},
        "price_per_hour": 3.6,
    }
    assert run(settings) in (0, 1)  # random weights are near every border: bf16 may fail
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    mine, bare = content["sets"]
    heads = {head["head"]: head for head in mine["heads"]}
    ours, theirs, bf16, baseline = (
        f"{load_bundle(bundle)} fp32",
        f"{other} fp32",
        f"{load_bundle(bundle)} bf16",
        "TF-IDF + logistic regression",
    )
    systems = {name: [system["system"] for system in head["systems"]] for name, head in heads.items()}
    assert systems == {
        "sentiment": [ours, bf16, theirs, baseline],
        "stars": [ours, bf16, theirs, baseline],
        "topics": [ours, bf16, baseline],
        "aspects": [ours, bf16],
    }
    assert bare["heads"] == []
    assert (mine["num_evaluated"], heads["stars"]["num_training"]) == (40, 80)
    assert mine["num_seen"] == 40
    learned = {system["system"]: system["figures"] for system in heads["stars"]["systems"]}[baseline]
    assert learned["accuracy"]["value"] == 1.0  # each text has one grade, and training saw it
    speeds = {speed["system"]: speed for speed in content["speeds"]}
    assert speeds[ours]["num_texts"] == 80
    assert speeds[ours]["cost_per_million"] == pytest.approx(1000 / speeds[ours]["texts_per_s"])
    record = Gate.load(load_bundle(bundle)).records["bf16"]
    assert record.passed is content["passed"]
    assert record.num_texts == 80
    assert set(record.agreement) == set(LABELS)
    written = "".join(path.read_text() for path in (tmp_path / "out").iterdir())
    shown = capfd.readouterr()
    assert PERSONAL not in written + shown.out + shown.err
    (bundle / GATES_FILE).unlink()


def test_users_own_csv_and_the_gate(tmp_path: Path, bundle: Path, run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my.csv").write_text("text,label\ngood,positive\nbad,negative\nbad,positive\n,positive\n")
    plain = {
        "bundle": str(bundle),
        "sets": {"mine": {"input": str(tmp_path / "my.csv"), "labels": {"sentiment": "label"}}},
    }
    assert run(plain) == 0
    assert "mine sentiment: accuracy" in capfd.readouterr().out
    assert run(plain, "gate.mine.sentiment.accuracy=0.0") == 0
    assert run(plain, "gate.mine.sentiment.accuracy=1.01") == 1
    assert "gate FAILED: mine sentiment accuracy" in capfd.readouterr().out


def test_fp32_against_itself_passes_every_gate(
    bundle: Path, data: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agreement alone, on texts without labels; the record opens the precision."""
    monkeypatch.setattr("jobs.evaluate.answers.Scorer", _in_fp32)
    settings = {"bundle": str(bundle), "sets": {"bare": {"input": str(data)}}, "precisions": ["int8"]}
    assert run(settings) == 0
    require(load_bundle(bundle), "int8")
    record = Gate.load(load_bundle(bundle)).records["int8"]
    assert (record.least_agreement, record.worst, record.num_texts) == (1.0, None, 120)
    (bundle / GATES_FILE).unlink()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sets.mine.input=nowhere/set.csv"], "nowhere/set.csv"),
        (["sets.mine.labels.mood=mood"], "no head ['mood']"),
        (["sets.mine.labels={}"], "sets.mine has no labels"),
        (["bundle=nowhere/bundle"], "nowhere/bundle"),
        (["precisions=[int3]"], "'int3' isn't one; known are fp32, bf16"),
        (["gate.mine.sentiment.acuracy=1"], "did you mean 'accuracy'"),
        (["sets.mine.labels.sentiment.values={positive: good}"], "`values` maps to ['good']; allowed are 'negative'"),
        (["compare_with=BUNDLE"], "is the evaluated bundle itself"),
        (["sets.mine.txt=body"], "unknown key sets.mine.txt"),
    ],
)
def test_bad_input_is_exit_code_2_and_writes_nothing(
    plain: dict[str, Any], run: Run, overrides: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(plain, *(override.replace("BUNDLE", plain["bundle"]) for override in overrides)) == 2
    assert message in capfd.readouterr().err
    assert not (Path(plain["sets"]["mine"]["input"]).parent / "out").exists()


def _in_fp32(bundle: Bundle, **options: Any) -> Scorer:
    return Scorer(bundle, **{**options, "precision": "fp32"})
