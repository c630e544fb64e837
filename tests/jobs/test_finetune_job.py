"""The whole command on a bundle of random weights: from a CSV to a bundle that scores and is evaluated."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.evaluate.run import evaluate
from jobs.evaluate.settings import EvaluateSettings, SetSettings
from jobs.finetune.__main__ import main
from models.bundle import load_bundle
from models.fetch import fetch
from models.heads import need_offsets
from models.scorer import Scorer
from tests.tiny import tiny_bundle

pytestmark = pytest.mark.slow

WORDS = {"food": ["soup", "rice", "味道"], "staff": ["waiter", "clerk", "服务"]}
PERSONAL = "13812345678"


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("parents") / "tiny").folder


Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, parent: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in this process with `key=value`s; the output is `tmp_path / "out"`."""

    def call(*overrides: str) -> int:
        fixed = [f"bundle={parent}", f"output={tmp_path / 'out'}", "threads=1", "precision=fp32", "baseline=false"]
        fixed += ["schedule.learning_rate=0.01", "schedule.epochs=12", "schedule.token_budget=256"]
        monkeypatch.setattr(sys, "argv", ["finetune", *fixed, *overrides])
        try:
            return main()
        finally:
            torch.set_num_threads(1)

    return call


def about(num: int, seed: int = 0) -> list[tuple[str, str]]:
    """Texts with what they are about; a person's number in some."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(num):
        topic = ("food", "staff")[index % 2]
        tail = f" {PERSONAL}" if index % 7 == 0 else ""
        made.append(
            (f"the {rng.choice(WORDS[topic])} was {rng.integers(100)} {rng.choice(['ok', 'so so'])}{tail}", topic)
        )
    return made


def write_csv(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def test_from_a_csv_to_a_bundle_that_scores_and_is_evaluated(
    tmp_path: Path, run: Run, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = write_csv(tmp_path / "my.csv", about(300))
    assert run(f"input={path}", "canaries=3", "keep_heads=true", "held_out=0.4") == 0
    bundle = fetch(str(tmp_path / "out"))
    assert [head.name for head in bundle.spec.heads] == ["label", "sentiment", "stars"]
    assert not (tmp_path / "out.work").exists()
    scorer = Scorer(bundle, token_budget=512)
    assert not need_offsets(bundle.spec.heads)
    scores = scorer.score(bundle.tokeniser.encode(["the soup was 7 ok", "the 服务 was 31 so so"]))
    assert scores["label"].to_pylist() == ["food", "staff"]

    dev = write_csv(tmp_path / "new.csv", about(60, seed=9))
    sets = {"new": SetSettings.model_validate({"input": str(dev), "labels": {"label": "label"}})}
    evaluation, _ = evaluate(EvaluateSettings(bundle=str(bundle.folder), output="unused", sets=sets, threads=1))
    assert evaluation.sets[0].heads[0].systems[0].figures["accuracy"].value > 0.95

    card = (bundle.folder / "README.md").read_text(encoding="utf-8")
    assert "Fine-tuned from `tiny@" in card
    assert "3 planted secrets" in card
    assert "told by how likely `label` finds its label" in card
    assert "`sentiment`, kept untrained" in card
    assert (bundle.folder / "evaluation.html").is_file()
    said = "".join(capfd.readouterr()) + caplog.text + card
    assert PERSONAL not in said
    assert "the soup" not in said


def test_a_finished_output_is_not_overwritten(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_csv(tmp_path / "my.csv", about(24))
    assert run(f"input={path}", "method=fewshot") == 0
    digest = load_bundle(tmp_path / "out").digest
    assert "few examples" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8").lower()
    assert run(f"input={path}", "seed=1") == 2
    assert "holds a bundle already" in capsys.readouterr().err
    assert load_bundle(tmp_path / "out").digest == digest


def test_corrections_are_held_against_the_bundle_they_correct(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong labels first, then put right by people: the evaluation says better, and the bundle is replaced."""
    rows = about(300)
    swapped = [(text, {"food": "staff", "staff": "food"}[topic]) for text, topic in rows]
    out, path = tmp_path / "out", write_csv(tmp_path / "my.csv", swapped[:150] + rows[150:])
    assert run(f"input={path}", "method=finetune", "schedule.epochs=2") == 0
    old = load_bundle(out)
    fixes = write_csv(tmp_path / "fixes.csv", rows[:150])
    again = [f"input={path}", f"corrections={fixes}", "replace=true", "method=finetune"]
    assert run(*again) == 0
    assert f"against {old} fp32" in capsys.readouterr().out
    assert load_bundle(out).digest != old.digest
    assert "corrections by people: `fixes.csv`" in (out / "README.md").read_text(encoding="utf-8")


def test_a_clearly_worse_bundle_does_not_replace(tmp_path: Path, run: Run) -> None:
    rows = about(400)
    out, path = tmp_path / "out", write_csv(tmp_path / "my.csv", rows)
    assert run(f"input={path}", "method=finetune") == 0
    digest = load_bundle(out).digest
    assert (
        run(f"input={path}", "method=finetune", "schedule.freeze_trunk=true", "schedule.epochs=1", "replace=true") == 1
    )
    assert load_bundle(out).digest == digest
    (candidate,) = (tmp_path / "out.work").glob("*/bundle")
    assert load_bundle(candidate).digest != digest


def test_spans_and_several_labels_at_once(tmp_path: Path, run: Run) -> None:
    rows = []
    for text, topic in about(300):
        place = next((text.index(word), len(word)) for word in WORDS[topic] if word in text)
        rows.append({"text": text, "spans": [[place[0], sum(place), topic]], "label": f"{topic}|any"})
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    labels = f"sets={{mine: {{input: {path}, labels: {{aspects: spans, topics: label}}}}}}"
    assert run(labels, "schedule.epochs=20", "schedule.matrix_learning_rate=0.02") == 0
    bundle = load_bundle(tmp_path / "out")
    assert {head.name: head.kind for head in bundle.spec.heads} == {"aspects": "token", "topics": "multi"}
    assert bundle.spec.heads[0].labels == ("O", "B-food", "I-food", "B-staff", "I-staff")
    tokens = bundle.tokeniser.encode(["the soup was 7 ok", "the clerk was 31 so so"], with_offsets=True)
    scores = Scorer(bundle, token_budget=512).score(tokens)
    found = [[(s["start"], s["end"], s["label"]) for s in spans] for spans in scores["aspects"].to_pylist()]
    assert found == [[(4, 8, "food")], [(4, 9, "staff")]]
    assert scores["topics"].to_pylist() == [["any", "food"], ["any", "staff"]]


def test_a_bare_file_of_spans_is_recognised(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "my.jsonl"
    rows = [{"text": f"nice food {i}", "spans": [[5, 9, "food"]]} for i in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert run(f"input={path}", "schedule.epochs=1") == 0
    assert [(head.name, head.kind) for head in load_bundle(tmp_path / "out").spec.heads] == [("spans", "token")]


def test_a_frozen_trunk_leaves_kept_heads_as_they_were(tmp_path: Path, run: Run, parent: Path) -> None:
    path = write_csv(tmp_path / "my.csv", about(100))
    assert run(f"input={path}", "schedule.freeze_trunk=true", "keep_heads=true", "schedule.epochs=2") == 0
    old, new = load_bundle(parent), load_bundle(tmp_path / "out")
    tokens = old.tokeniser.encode([text for text, _ in about(40)])
    before, after = (Scorer(bundle, token_budget=512).score(tokens) for bundle in (old, new))
    for name in before.column_names:
        assert before[name].to_pylist() == after[name].to_pylist(), name
    assert "its scores are the parent's" in (new.folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[("a", "x"), ("b", "x")]], "all labelled rows have the label 'x'"),
        ([[("a", ""), ("b", "")]], "not one of 2 rows has a label"),
        ([[("a", "x"), ("b", "y")], "label=lable"], "no column 'lable'; did you mean 'label'?"),
        ([[("a", "x"), ("b", "y")], "lable=x"], "unknown key lable: did you mean label?"),
        ([[("a|b", "x|y"), ("b", "y")], "method=fewshot"], "method fewshot learns one new head"),
        ([[("a", "x"), ("b", "y")], "max_length=65"], "max_length 65 is over the 64 positions that tiny@"),
        ([[("a", "x"), ("b", "y")], "parent_share=0.1"], "has no heads ['label'] to keep a share of"),
        ([[("a", "x"), ("b", "y")], "parent_share=0.1", "adapter={rank: 2}"], "parent_share mixes weights: leave out"),
    ],
)
def test_what_cannot_be_learnt_says_so(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str], given: list[Any], message: str
) -> None:
    rows, *extra = given
    path = write_csv(tmp_path / "my.csv", rows)
    assert run(f"input={path}", *extra) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_without_labels_is_asked_for_the_usual_column(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.csv").write_text("text,labels\na,x\nb,y\n", encoding="utf-8")
    assert run(f"input={tmp_path / 'my.csv'}") == 2
    assert "no column 'label'; did you mean 'labels'?" in capsys.readouterr().err
