"""The whole way on a few made-up rows of every set: prepare, fine-tune, evaluate; and the pack for another machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from cluster.config import load_config, parse_config
from jobs.evaluate.run import evaluate
from jobs.evaluate.settings import EvaluateSettings
from jobs.finetune.run import finetune
from jobs.finetune.settings import FinetuneSettings
from jobs.starter import pack as packing
from jobs.starter.__main__ import main
from jobs.starter.sets import SETS
from jobs.train.pretrain_settings import PretrainSettings
from models.fetch import fetch
from models.scorer import Scorer
from tests.tiny import tiny_bundle

ROOT = Path(__file__).parents[2]
ROOM = ROOT / "jobs" / "starter"
HEADS = ["sentiment", "stars", "topics", "intent", "urgency", "emotion", "aspects", "brands"]
PERSONAL = "13812345678"
GENERATED = {"phrases", "mixed", "pieces"}

Rows = list[dict[str, Any]]


def flip(number: int, *values: Any) -> Any:
    return values[number % len(values)]


def rows_of(file: str, number: int) -> dict[str, Any]:
    """A row of each set's form; texts differ by their number."""
    sides = ("positive", "negative")
    word = flip(number, "好", "差") if number % 3 else flip(number, "棒", "烂")  # held-out words differ
    by_file: dict[str, dict[str, Any]] = {
        "chnsenticorp": {
            "text": f"房间{number}很{flip(number, '好', '差')}，电话{PERSONAL}",
            "sentiment": flip(number, *sides),
        },
        "dianping_triplets": {
            "text": f"味道{word}，{number}",
            "tokens": f"味 道 {word} ， {number}",
            "triplets": f"[((0, 1), (2, 2), '{flip(number, 'POS', 'NEG')}')]",
        },
        "public_complaints": {"text": f"第{number}条路坏了", "subject": flip(number, "路坏了", "咨询修路", "建议修路")},
        "public_complaints_replied": {"text": f"第{number}盏灯坏了", "subject": "路灯", "reply": f"已修第{number}盏"},
        "goemotions": {
            "text": f"wow number {number}",
            "emotions": json.dumps([flip(number, "joy", "anger", "neutral")]),
        },
        "banking77": {"text": f"where is my card {number}?", "intent": flip(number, "card_arrival", "request_refund")},
        "clinc150": {"text": f"freeze account {number}", "intent": flip(number, "freeze_account", "translate")},
        "amazon_polarity_10k": {"text": f"the price {number} is ok. it is no good", "label": flip(number, "1", "0")},
        "sst2": {"text": f"film {number}", "label": flip(number, "1", "0")},
        "womens_clothing": {"text": f"dress {number}", "title": None, "rating": 1 + number % 5},
        "pros_cons": {"text": f"{flip(number, 'nice', 'bad')} zoom {number}", "sentiment": flip(number, *sides)},
        "product_review_aspects": {
            "text": f"the zoom is {number}",
            "aspects": json.dumps([{"aspect": "zoom", "polarity": flip(number, 2, -1)}]),
        },
        "mams_acsa": {
            "text": f"soup {number} and staff",
            "aspects": json.dumps([{"aspect": flip(number, "food", "staff"), "polarity": flip(number, *sides)}]),
        },
        "news_headline_entities": {
            "text": f"ITC up {number}",
            "entities": json.dumps([{"entity": "ITC", "polarity": flip(number, *sides)}]),
        },
        "cfpb_complaints": {"text": f"they charged me {number} times", "category": "Credit card"},
        "airline_tweets": {
            "text": f"late {number}",
            "sentiment": "negative",
            "reason": flip(number, "Late Flight", None),
        },
        "car_aspects": {"text": f"油耗 {number}", "aspects": json.dumps([{"aspect": flip(number, "动力", "价格")}])},
        "complaint_tweets": {"text": f"it broke {number}", "complaint": number % 2},
        "suggestions": {"text": f"add a button {number}", "suggestion": number % 2},
    }
    return {**by_file[file], "id": f"{file}-{number}", "lang": "zh" if not by_file[file]["text"].isascii() else "en"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of the real sets: 24 rows each, every third for dev."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "feedback").mkdir()
    for file in {spec.file for spec in SETS.values()}:
        rows = [{**rows_of(file, number), "split": "train" if number % 3 else "dev"} for number in range(24)]
        pq.write_table(pa.Table.from_pylist(rows), folder / "feedback" / f"{file}.parquet")
    return folder


Starter = Callable[..., int]


@pytest.fixture
def starter(monkeypatch: pytest.MonkeyPatch) -> Starter:
    """`python -m jobs.starter` in this process."""

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["starter", *arguments])
        return main()

    return call


def prepare(starter: Starter, data: Path, work: Path, *more: str) -> int:
    return starter("prepare", str(ROOM / "prepare.yaml"), f"data={data}", f"work={work}", *more)


def test_the_recipe_reads_what_is_prepared(tmp_path: Path, data: Path, starter: Starter) -> None:
    """Every set that may train, no other, and each set's label columns."""
    assert prepare(starter, data, tmp_path) == 0
    recipe = load_config(ROOM / "finetune.yaml", [], FinetuneSettings)
    assert recipe.sets.keys() == {name for name, spec in SETS.items() if spec.may_train} | GENERATED
    for name, one in recipe.sets.items():
        assert one.input == f"out/starter/data/{name}.parquet"
        columns = set(pq.read_schema(tmp_path / "data" / f"{name}.parquet").names)
        assert one.labels.keys() == columns & set(HEADS), name
        assert all(label.column == head for head, label in one.labels.items())
    measured = load_config(ROOT / "jobs" / "evaluate.yaml", [], EvaluateSettings)
    for one in measured.sets.values():
        if one.input.startswith("out/starter/"):
            columns = set(pq.read_schema(tmp_path / one.input.removeprefix("out/starter/")).names)
            assert {label.column for label in one.labels.values()} <= columns
    assert {head for one in measured.sets.values() for head in one.labels} == set(HEADS)


def test_what_is_written(tmp_path: Path, data: Path, starter: Starter) -> None:
    assert prepare(starter, data, tmp_path / "one") == 0
    assert prepare(starter, data, tmp_path / "two") == 0
    written = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    for path in written:
        content = (tmp_path / "one" / path).read_bytes()
        assert content == (tmp_path / "two" / path).read_bytes(), path
        assert PERSONAL.encode() not in content
    hotel = pq.read_table(tmp_path / "one" / "data" / "chnsenticorp.parquet").to_pylist()[0]
    assert hotel == {
        "id": "chnsenticorp-0",
        "text": "房间0很好,电话[PHONE]",
        "lang": "zh",
        "split": "dev",
        "sentiment": "positive",
        "stars": "4|5",
        "topics": ["facilities"],
        "intent": ["praise"],
        "urgency": "low",
    }
    short = pq.read_table(tmp_path / "one" / "data" / "dianping_opinions.parquet").to_pylist()
    assert len([row for row in short if row["text"] == "好"]) == 1  # once, and not for dev, as it is trained on
    terms = (tmp_path / "one" / "terms.md").read_text(encoding="utf-8")
    assert "| mams_acsa | MAMS (Jiang et al. 2019) | Apache-2.0 | 24 |" in terms


@pytest.mark.slow
def test_all_heads_end_to_end(tmp_path: Path, data: Path, starter: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        prepare(
            starter,
            data,
            Path("out/starter"),
            f"taxonomy={ROOM / 'taxonomy.yaml'}",
            f"intents={ROOM / 'intents.yaml'}",
            f"urgency={ROOM / 'urgency.yaml'}",
            f"phrases={ROOM / 'phrases.yaml'}",
        )
        == 0
    )
    parent = tiny_bundle(tmp_path / "parent").folder
    overrides = [f"bundle={parent}", "schedule.epochs=1", "schedule.token_budget=2048", "threads=1", "precision=fp32"]
    try:
        finetune(load_config(ROOM / "teacher.yaml", [*overrides, "max_length=64"], FinetuneSettings))
        bundle = finetune(load_config(ROOM / "finetune.yaml", overrides, FinetuneSettings)).bundle
    finally:
        torch.set_num_threads(1)
    heads = {head.name: head for head in fetch(str(bundle.folder)).spec.heads}
    assert heads.keys() == {*HEADS, "embedding"}
    assert heads["urgency"].labels == ("low", "medium", "high")
    assert heads["emotion"].labels == ("anger", "joy", "neutral")
    assert heads["aspects"].labels[:3] == ("O", "B-negative", "I-negative")
    assert {"facilities", "taste", "returns"} <= set(heads["topics"].labels)
    scores = Scorer(bundle, token_budget=512).score(bundle.tokeniser.encode(["味道好"], with_offsets=True))
    assert len(scores["embedding"].to_pylist()[0]) == heads["embedding"].size
    card = (bundle.folder / "README.md").read_text(encoding="utf-8")
    assert "## Terms, attribution, weak labels" in card
    assert "`sentiment` also learnt what `teacher@" in card

    measured = yaml.safe_load((ROOT / "jobs" / "evaluate.yaml").read_text(encoding="utf-8"))
    here = {name: one for name, one in measured["sets"].items() if one["input"].startswith("out/")}
    changed = {**measured, "bundle": str(bundle.folder), "output": "unused", "sets": here, "threads": 1}
    evaluation, _ = evaluate(parse_config(changed, EvaluateSettings, "test"))
    figures = {(one.name, head.head) for one in evaluation.sets for head in one.heads if head.systems}
    assert {head for _, head in figures} == {*HEADS} - {"stars"}


def test_a_bundle_without_some_heads_is_evaluated_on_the_others(
    tmp_path: Path, data: Path, starter: Starter, caplog: pytest.LogCaptureFixture
) -> None:
    assert prepare(starter, data, tmp_path / "work") == 0
    labels = {"sentiment": "sentiment", "topics": {"column": "topics", "open_mark": "?"}}
    sets = {
        "both": {"input": str(tmp_path / "work/data/mams_acsa.parquet"), "labels": labels},
        "none": {"input": str(tmp_path / "work/data/goemotions.parquet"), "labels": {"emotion": "emotion"}},
    }
    plain = {"bundle": str(tiny_bundle(tmp_path / "tiny").folder), "output": "unused", "sets": sets, "threads": 1}
    with pytest.raises(ValueError, match="the bundle has no head"):
        evaluate(parse_config(plain, EvaluateSettings, "test"))
    skipping = parse_config({**plain, "skip_missing_heads": True}, EvaluateSettings, "test")
    evaluation, _ = evaluate(skipping)
    assert [(one.name, [head.head for head in one.heads]) for one in evaluation.sets] == [("both", ["sentiment"])]
    assert "has no head emotion, topics: not evaluated" in caplog.text
    nothing = {**plain, "skip_missing_heads": True, "sets": {"none": sets["none"]}}
    with pytest.raises(ValueError, match="no set has labels of a head of tiny@"):
        evaluate(parse_config(nothing, EvaluateSettings, "test"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["prepare", "data=nowhere"], "data: set 'chnsenticorp' should lie at nowhere/feedback/chnsenticorp.parquet"),
        (["prepare", "taxonomy=gone.yaml"], "settings file gone.yaml can't be read"),
        (["prepare", "max_row=3"], "unknown key max_row: did you mean max_rows?"),
        (["prepare", "to=folder"], "prepare: to=FOLDER is pack's and from=FOLDER is unpack's"),
        (["pack"], "pack: to=FOLDER is pack's"),
        (["pack", "to=folder", "work=empty"], "nothing is prepared in empty"),
        (["pack", "to=folder", "work=/tmp/empty"], "work: /tmp/empty must be relative"),
        (["unpack", "from=nowhere"], "from: nowhere has no parts.json"),
    ],
)
def test_what_cannot_be_used_is_said(
    arguments: list[str], says: str, starter: Starter, capsys: pytest.CaptureFixture[str]
) -> None:
    assert starter(*arguments) == 2
    assert says in capsys.readouterr().err


def test_packed_data_comes_back_the_same(
    tmp_path: Path, starter: Starter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(packing, "PART_BYTES", 8192)
    folder = Path("out/starter/data")
    folder.mkdir(parents=True)
    (folder / "a.parquet").write_bytes(bytes(range(256)) * 40)
    (folder / "b.parquet").write_bytes(b"b")
    (folder.parent / "terms.md").write_text("terms", encoding="utf-8")
    config = str(ROOM / "prepare.yaml")
    assert starter("pack", config, "to=packed") == 0
    parts = sorted(path.name for path in Path("packed").iterdir())
    assert parts == ["parts.json", "starter.tar.0", "starter.tar.1", "starter.tar.2"]
    there = tmp_path / "there"
    there.mkdir()
    monkeypatch.chdir(there)
    assert starter("unpack", f"from={tmp_path / 'packed'}") == 0
    found = {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert found == {
        "out/starter/data/a.parquet": bytes(range(256)) * 40,
        "out/starter/data/b.parquet": b"b",
        "out/starter/terms.md": b"terms",
    }
    (tmp_path / "packed" / "starter.tar.1").write_bytes(b"else")
    assert starter("unpack", f"from={tmp_path / 'packed'}") == 2
    assert "starter.tar.1 is broken: sha256" in capsys.readouterr().err
    (tmp_path / "packed" / "starter.tar.1").unlink()
    assert starter("unpack", f"from={tmp_path / 'packed'}") == 2
    assert "starter.tar.1 is missing" in capsys.readouterr().err
    monkeypatch.setattr(packing, "MAX_BYTES", 4096)
    assert starter("pack", config, "to=more") == 2


def test_each_stage_goes_on_from_the_one_before() -> None:
    recipe = load_config(ROOM / "finetune.yaml", [], FinetuneSettings)
    further = load_config(ROOM / "further.yaml", [], PretrainSettings)
    teacher = load_config(ROOM / "teacher.yaml", [], FinetuneSettings)
    assert recipe.bundle == f"{further.output}/bundle"
    assert [one.bundle for one in recipe.teachers] == [teacher.output]
    assert set(recipe.teachers[0].sets) - {"pieces"} <= teacher.sets.keys() <= recipe.sets.keys()
    assert recipe.embedding == "mean"
