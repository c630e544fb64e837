"""Sets as they are read: parts, odd rows, slices, and what can't be used."""

import csv
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.config import SettingsError, load_config, parse_config
from jobs.evaluate.rows import EvaluateError
from jobs.evaluate.sets import LoadedSet, load_set
from jobs.evaluate.settings import EvaluateSettings
from jobs.evaluate.slices import slices
from models.heads import HeadSpec

HEADS = (
    HeadSpec(name="sentiment", labels=("negative", "neutral", "positive")),
    HeadSpec(name="aspects", kind="token", labels=("O", "B-food", "I-food")),
    HeadSpec(name="vector", kind="embedding", size=4),
)
ROWS = [
    ("a", "good food", "positive", "dev"),
    ("b", "good food ", "negative", "train"),  # the same text once cleaned, and another label
    ("c", "slow", "negative", "train"),
    ("d", "   ", "negative", "dev"),  # nothing remains
    ("e", "so so", "", "dev"),  # no label
    ("f", "slow", "negative", "dev"),
    ("g", "slow", "negative", "dev"),
    ("h", "nice", "positive", "dev"),
]


def write_csv(path: Path, rows: list[tuple], header: tuple[str, ...] = ("id", "text", "label", "split")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([header, *rows])
    return path


def settings(path: Path | str, own: dict[str, Any] | None = None, **more: Any) -> EvaluateSettings:
    one = {"input": str(path), "id": "id", "labels": {"sentiment": "label"}, "split": {"value": "dev"}, **(own or {})}
    plain = {"bundle": "b", "output": "o", "sets": {"mine": one}, "baseline": {"train_split": "train"}, **more}
    return parse_config(plain, EvaluateSettings, "test")


def load(path: Path | str, own: dict[str, Any] | None = None, **more: Any) -> LoadedSet:
    return load_set("mine", settings(path, own, **more), HEADS)


def test_parts_and_what_is_odd(tmp_path: Path) -> None:
    loaded = load(write_csv(tmp_path / "x.csv", ROWS))
    (labels,) = loaded.labels
    assert loaded.rows.ids == ["a", "e", "f", "g", "h"]
    assert loaded.training.ids == ["b", "c"]
    assert loaded.rows.rejected == {"empty_text": 1}
    assert labels.evaluated.known.tolist() == [True, False, True, True, True]
    assert labels.evaluated.truth.tolist() == [2, 0, 0, 2]
    assert labels.training.truth.tolist() == [0, 0]
    assert labels.contradictory == (("a", "b"),)
    assert loaded.seen.tolist() == [True, False, True, True, False]
    assert (loaded.num_rows, loaded.num_held_out, loaded.num_repeated) == (7, 5, 1)


def test_every_format_gives_the_same(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", ROWS)
    plain = [dict(zip(("id", "text", "label", "split"), (i, t, lab or None, s), strict=True)) for i, t, lab, s in ROWS]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plain))
    pq.write_table(pa.Table.from_pylist(plain), tmp_path / "x.parquet")
    first, *others = (load(tmp_path / name) for name in ("x.csv", "x.jsonl", "x.parquet"))
    for other in others:
        assert other.rows.texts == first.rows.texts
        assert other.labels[0].evaluated.truth.tolist() == first.labels[0].evaluated.truth.tolist()
        assert other.labels[0].contradictory == first.labels[0].contradictory


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_users_own_file_needs_no_id_and_no_split(tmp_path: Path, name: str) -> None:
    if name == "x.csv":
        write_csv(tmp_path / name, [("good", "positive"), ("good", "negative")], ("text", "label"))
    else:
        pq.write_table(pa.table({"text": ["good", "good"], "label": ["positive", "negative"]}), tmp_path / name)
    loaded = load(tmp_path / name, {"id": None, "split": None})
    assert len(loaded.rows) == 2
    assert len(loaded.training) == 0
    ((one, other),) = loaded.labels[0].contradictory
    assert one.startswith("row ")
    assert other.startswith("row ")
    assert one != other


def test_drawn_texts_follow_the_seed(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [(i, f"text {i}", "positive", "dev") for i in range(50)])
    one, same, other = (load(path, max_texts=10, seed=seed) for seed in (1, 1, 2))
    assert one.rows.ids == same.rows.ids != other.rows.ids
    assert len(one.rows) == 10
    assert one.num_held_out == 50


def test_spans_move_with_cleaning(tmp_path: Path) -> None:
    """Labelled in the text as found, compared in the clean one; what cleaning drops can't be found."""
    raw = "<b>the</b>   food  was fine"
    start = raw.index("food")
    line = {"id": "1", "text": raw, "spans": [[start, start + 4, "food"], [0, 3, "food"]]}
    (tmp_path / "x.jsonl").write_text(json.dumps(line) + "\n")
    loaded = load(tmp_path / "x.jsonl", {"labels": {"aspects": "spans"}, "split": None})
    text = loaded.rows.texts[0]
    (spans,) = loaded.labels[0].evaluated.truth
    assert text == "the food was fine"
    assert {text[start:end] for start, end, _ in spans} == {"food"}


def test_slices(tmp_path: Path) -> None:
    rows = [
        ("a", "good food", "positive", "2024-01-31", "x"),
        ("b", "好吃", "positive", "2024-02-01T10:00:00", "y"),
        ("c", "slow " * 20, "negative", "2024-04-01", "x"),
    ]
    path = write_csv(tmp_path / "x.csv", rows, ("id", "text", "label", "at", "product"))
    loaded = load(path, {"split": None, "slices": ["product"], "time": "at"})
    found = {(by, value): mask.tolist() for by, value, mask in slices(loaded)}
    assert found == {
        ("language", "en"): [True, False, True],
        ("language", "zh"): [False, True, False],
        ("characters", "1 to 19"): [True, True, False],
        ("characters", "50 to 99"): [False, False, True],
        ("product", "x"): [True, False, True],
        ("product", "y"): [False, True, False],
        ("quarter", "2024 Q1"): [True, True, False],
        ("quarter", "2024 Q2"): [False, False, True],
    }


def test_times_may_be_typed_and_many_values_share_a_slice(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": list(range(60)),
            "text": ["good"] * 60,
            "label": ["positive"] * 60,
            "at": [datetime(2023, 12, 31)] * 30 + [None] * 30,
            "who": [f"w{i}" for i in range(30)] * 2,
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    loaded = load(tmp_path / "x.parquet", {"split": None, "slices": ["who"], "time": "at"})
    found = {(by, value): int(mask.sum()) for by, value, mask in slices(loaded)}
    assert found["quarter", "2023 Q4"] == found["quarter", "(none)"] == 30
    assert found["who", "10 others"] == 20
    assert sum(count for (by, _), count in found.items() if by == "who") == 60


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"labels": {"sentimnt": "label"}}, "no head ['sentimnt']; it has ['aspects', 'sentiment']"),
        ({"labels": {"vector": "label"}}, "no head ['vector']"),
        ({"labels": {"sentiment": "lable"}}, "did you mean 'label'"),
        ({"split": {"value": "test"}}, "no row of"),
        ({"split": {"column": "part"}}, "no column 'part'"),
        ({"text": "body"}, "no column 'body'"),
        ({"time": "label"}, "ISO 8601"),
        ({"input": "nowhere/x.csv"}, "nowhere/x.csv"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, own: dict[str, Any], message: str) -> None:
    path = write_csv(tmp_path / "x.csv", ROWS)
    with pytest.raises((ValueError, OSError)) as error:
        list(slices(load(path, own)))
    assert message in str(error.value)


def test_unknown_label_names_set_head_and_column(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [*ROWS, ("i", "odd", "mixed", "train")])
    with pytest.raises(EvaluateError, match=r"sets\.mine\.labels\.sentiment \(column 'label'\).*'mixed'"):
        load(path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("precisions=[fp32]", "fp32 is what the others"),
        ("sets={}", "sets"),
        ("sets.a b.input=x.csv", "a set's name"),
        ("sets.mine.colour=red", "unknown key sets.mine.colour"),
        ("max_texts=0", "max_texts"),
        ("precisions=[int8, int8]", "each precision once"),
        ("gate.mine.sentiment.accuracy=high", "gate.mine.sentiment.accuracy"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path: Path, override: str, message: str) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("bundle: starter\noutput: out\nsets: {mine: {input: my.csv, labels: {sentiment: label}}}\n")
    assert load_config(path, ["sets.mine.input=other.csv"], EvaluateSettings).sets["mine"].input == "other.csv"
    with pytest.raises(SettingsError) as error:
        load_config(path, [override], EvaluateSettings)
    assert message in str(error.value)


def test_shipped_settings_are_whole() -> None:
    shipped = load_config(Path(__file__).parents[2] / "jobs" / "evaluate.yaml", [], EvaluateSettings)
    assert {"chnsenticorp", "amazon_polarity_10k", "sst2", "waimai_10k"} <= shipped.sets.keys()
    assert shipped.sets["sst2"].labels["sentiment"].values == {"0": "negative", "1": "positive"}
    assert np.all([one.split is not None for one in shipped.sets.values()])
