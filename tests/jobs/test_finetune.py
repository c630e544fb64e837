"""Fine-tuning's settings and data: kinds, splits, odd labels, masks, spans as tags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.config import SettingsError, load_config, parse_config
from jobs.finetune.__main__ import DEFAULTS
from jobs.finetune.data import read_data
from jobs.finetune.guess import guess
from jobs.finetune.settings import FinetuneError, FinetuneSettings
from jobs.finetune.spans import IGNORED, moved_to_masked, tag_labels, token_tags
from jobs.finetune.split import DEV, LEFT_OUT, TRAIN, TUNE, split_texts
from models.bundle import Bundle
from models.clean import clean
from models.masking import mask
from models.tags import find_spans
from models.tokeniser import Tokens
from tests.jobs import finetune_fixtures
from tests.jobs.finetune_fixtures import data_of, reviews, settings_of, write

parent = finetune_fixtures.parent
pytestmark = pytest.mark.usefixtures("one_thread")
TEACHER = {"bundle": "starter", "head": "label", "sets": ["a"]}


# --- settings and kinds


def test_the_yaml_holds_the_defaults() -> None:
    least = {"input": "my.csv", "output": "out/mine"}
    given = [f"{key}={value}" for key, value in least.items()]
    assert load_config(DEFAULTS, given, FinetuneSettings) == parse_config(least, FinetuneSettings, "test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "give either input"),
        ({"input": "a.csv", "sets": {"a": {"input": "a.csv", "labels": {"x": "y"}}}}, "give either input"),
        (
            {"sets": {"a": {"input": "a.csv"}}},
            r"sets without labels and without a teacher can't teach anything: \['a'\]",
        ),
        ({"input": "a.csv", "teachers": [{**TEACHER, "sets": ["b"]}]}, r"teachers name the sets \['b'\]; .* \['a'\]"),
        ({"input": "a.csv", "teachers": [{**TEACHER, "weight": 0}]}, "weight.*greater than 0"),
        ({"input": "a.csv", "method": "fewshot", "teachers": [TEACHER]}, "with teachers use method=finetune"),
        ({"input": "a.csv", "repeat": {"b": 2.0}}, r"repeat names \['b'\]; the sets are \['a'\]"),
        ({"input": "a.csv", "sheduel": {}}, "did you mean schedule?"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_config({"output": "o", **changes}, FinetuneSettings, "test")


@pytest.mark.parametrize(
    ("cells", "kind", "labels"),
    [
        (["b", "a", None, "b"], "single", ("a", "b")),
        ([0, 1, 1], "single", ("0", "1")),
        ([3, 1, 2, "3", 1.0], "ordinal", ("1", "2", "3")),
        ([1, 3], "single", ("1", "3")),
        (["a|b", "a", ""], "multi", ("a", "b")),
        (['["a"]', "[]", '["c", "b"]'], "multi", ("a", "b", "c")),
        ([["x"], ["y"]], "multi", ("x", "y")),
        (['[[0, 4, "food"]]', "[]"], "token", ("food",)),
        ([[{"start": 0, "end": 2, "label": "b"}], [{"start": 0, "end": 2, "label": "a"}]], "token", ("a", "b")),
    ],
)
def test_kinds_are_guessed(cells: list[Any], kind: str, labels: tuple[str, ...]) -> None:
    found = guess(cells, "head x")
    assert (found.kind, found.labels) == (kind, labels)


def test_a_kind_that_is_said_is_not_guessed() -> None:
    assert guess([1, 2, 3], "head x", "single").kind == "single"
    assert guess(["a", "b"], "head x", "multi").kind == "multi"


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([None, ""], "head x: not one of 2 rows has a label"),
        (["a", "a"], "head x: all labelled rows have the label 'a'; at least 2 different labels are needed"),
        (["[]", "[]"], "head x: no row has a label"),
        ([f"text {i}" for i in range(1001)], "1001 different values; is this a column of labels?"),
        (
            ['["a"]', "b|c", ""],
            "head x: 1 of 2 labelled rows hold a list, the others don't",
        ),
    ],
)
def test_columns_that_teach_nothing(cells: list[Any], message: str) -> None:
    with pytest.raises(FinetuneError, match=message):
        guess(cells, "head x")


# --- splits and odd data


def test_parts_follow_from_the_text_alone() -> None:
    texts = [f"text {i}" for i in range(4000)]
    none = np.zeros(4000, np.bool_)
    parts = split_texts(texts, none, none, (0.15, 0.06))
    shares = {part: float((parts == part).mean()) for part in (TRAIN, TUNE, DEV)}
    assert shares == pytest.approx({TRAIN: 0.79, TUNE: 0.06, DEV: 0.15}, abs=0.02)
    backwards = split_texts(texts[::-1], none, none, (0.15, 0.06))
    assert (parts == backwards[::-1]).all()


def test_duplicates_never_straddle() -> None:
    none = np.zeros(400, np.bool_)
    parts = split_texts([f"text {i % 200}" for i in range(400)], none, none, (0.3, 0.2))
    assert (parts[:200] == parts[200:]).all()


def test_training_rows_that_repeat_a_held_out_text_are_left_out() -> None:
    parts = split_texts(["a", "b", "a"], np.array([False, False, True]), np.ones(3, np.bool_), (0.15, 1e-9))
    assert parts.tolist() == [LEFT_OUT, TRAIN, DEV]


def test_contradictory_labels_are_listed_by_id(
    tmp_path: Path, parent: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"key": f"r{i}", **row} for i, row in enumerate(reviews(30))]
    rows += [
        {"key": "x1", "text": "mixed feelings", "label": "g"},
        {"key": "x2", "text": " mixed  feelings", "label": "b"},
    ]
    data = data_of(tmp_path, rows, parent, id="key")
    assert data.contradictory == {"label": (("x1", "x2"),)}
    assert "1 texts have contradictory labels: x1, x2" in caplog.text
    assert "mixed feelings" not in caplog.text


def test_missing_labels_are_counted(tmp_path: Path, parent: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    data = data_of(tmp_path, [*reviews(30), {"text": "who knows", "label": None}], parent)
    assert "1 rows of its sets have no label" in caplog.text
    assert int(data.labels["label"].known.sum()) == 30


def test_a_label_the_parent_does_not_know_is_named(tmp_path: Path, parent: Bundle) -> None:
    with pytest.raises(ValueError, match="no such label: 'b'"):
        data_of(tmp_path, reviews(30), parent, head="sentiment")


def test_a_head_of_another_kind_than_the_parents(tmp_path: Path, parent: Bundle) -> None:
    with pytest.raises(
        FinetuneError, match=r"head stars is ordinal in tiny@.*; name yours otherwise \(head=my_stars\)"
    ):
        data_of(tmp_path, reviews(30), parent, head="stars", heads={"stars": {"kind": "single"}})


@pytest.mark.parametrize("labels", [["positive", "neutral", "negative"], ["negative", "positive"]])
def test_other_labels_than_the_parents_are_refused_and_its_own_are_not(
    tmp_path: Path, parent: Bundle, labels: list[str]
) -> None:
    rows = [{"text": f"t{index}", "label": ("negative", "neutral", "positive")[index % 3]} for index in range(30)]
    own = ["negative", "neutral", "positive"]
    data = data_of(tmp_path, rows, parent, head="sentiment", heads={"sentiment": {"labels": own}})
    assert data.heads[0].is_known
    with pytest.raises(FinetuneError, match=r"head sentiment is single in tiny@.*, with labels of its own"):
        data_of(tmp_path, rows, parent, head="sentiment", heads={"sentiment": {"labels": labels}})


def test_heads_that_no_set_labels_are_refused(tmp_path: Path, parent: Bundle) -> None:
    with pytest.raises(
        FinetuneError, match=r"heads names \['moood'\], which no set has labels for; there are \['label'\]"
    ):
        data_of(tmp_path, reviews(30), parent, heads={"moood": {}})


def test_corrections_weigh_more_and_replace_rows_of_their_text(tmp_path: Path, parent: Bundle) -> None:
    rows = reviews(60)
    fixes = write(tmp_path / "fixes.jsonl", [{"text": row["text"], "label": "g"} for row in rows[:20]])
    data = data_of(tmp_path, rows, parent, corrections=str(fixes), corrections_weight=3.0)
    assert data.names == ("mine", "corrections")
    assert (data.parts[:20] == LEFT_OUT).all()
    assert (data.parts[-20:] == TRAIN).all()
    assert data.weights.tolist() == [1.0] * 60 + [3.0] * 20
    assert data.contradictory == {"label": ()}


def test_a_correction_leaves_other_heads_their_labels(tmp_path: Path, parent: Bundle) -> None:
    rows = [{**row, "tone": "xy"[i % 3 == 0]} for i, row in enumerate(reviews(60))]
    fixes = [{"text": row["text"], "label": "g", "tone": None} for row in rows[:20]]
    sets = {"mine": {"input": str(write(tmp_path / "mine.jsonl", rows)), "labels": {"label": "label", "tone": "tone"}}}
    settings = {"output": "o", "sets": sets, "corrections": str(write(tmp_path / "fixes.jsonl", fixes))}
    data = read_data(parse_config(settings, FinetuneSettings, "test"), parent)
    corrected, keeps = np.arange(80) < 20, (data.parts == TRAIN)
    assert not data.labels["label"].known[corrected].any(), "only the corrections speak of these"
    assert data.labels["tone"].known[corrected & keeps].all() and (corrected & keeps).sum() > 10
    assert set(data.parts[corrected]) == {TRAIN, LEFT_OUT}, "none of them is measured on"
    assert data.labels["label"].known[-20:].all() and not data.labels["tone"].known[-20:].any()


def test_a_share_of_training_texts_is_part_of_a_larger_share(tmp_path: Path, parent: Bundle) -> None:
    parts = {share: data_of(tmp_path, reviews(2000), parent, train_share=share).parts for share in (1.0, 0.5, 0.25)}
    trained = {share: own == TRAIN for share, own in parts.items()}
    assert trained[0.5].sum() / trained[1.0].sum() == pytest.approx(0.5, abs=0.05)
    assert trained[0.25].sum() / trained[1.0].sum() == pytest.approx(0.25, abs=0.05)
    assert not (trained[0.25] & ~trained[0.5]).any()
    for share in (0.5, 0.25):
        assert (parts[share][parts[1.0] != TRAIN] == parts[1.0][parts[1.0] != TRAIN]).all(), "held-out texts stay"


def test_personal_data_is_masked_before_anything_else(tmp_path: Path, parent: Bundle) -> None:
    rows = [{**row, "text": f"{row['text']} call 13812345678"} for row in reviews(30)]
    data = data_of(tmp_path, rows, parent)
    assert all("[PHONE]" in text and "13812345678" not in text for text in data.texts)


def test_sets_label_only_some_heads(tmp_path: Path, parent: Bundle) -> None:
    first = write(tmp_path / "a.jsonl", reviews(20))
    second = write(tmp_path / "b.jsonl", [{"text": f"x {i}", "topic": "p|q" if i % 2 else "p"} for i in range(10)])
    sets = {"a": {"input": str(first), "labels": {"mood": "label"}}}
    sets["b"] = {"input": str(second), "labels": {"topic": "topic"}}
    data = read_data(settings_of(first, input=None, sets=sets), parent)
    assert [(head.spec.name, head.spec.kind) for head in data.heads] == [("mood", "single"), ("topic", "multi")]
    assert data.labels["mood"].known.tolist() == [True] * 20 + [False] * 10
    assert data.labels["topic"].truth[20:].tolist() == [[True, False], [True, True]] * 5


def test_the_digest_names_labels(tmp_path: Path, parent: Bundle) -> None:
    rows = reviews(30)
    one = data_of(tmp_path, rows, parent)
    rows[3] = {**rows[3], "label": "b"}
    assert one.digest() != data_of(tmp_path, rows, parent).digest()


# --- spans


@pytest.mark.parametrize(
    ("raw", "span", "expected"),
    [
        ("good food", (5, 9), "food"),
        ("  good &amp;  food", (14, 18), "food"),
        ("call 13812345678 about food", (23, 27), "food"),
        ("call 13812345678 now", (8, 12), "[PHONE]"),
    ],
)
def test_spans_follow_their_text_through_cleaning_and_masking(raw: str, span: tuple[int, int], expected: str) -> None:
    ((start, end, label),) = moved_to_masked(frozenset({(*span, "x")}), raw)
    assert (mask(clean(raw))[start:end], label) == (expected, "x")


def encoded(parent: Bundle, texts: list[str]) -> Tokens:
    return parent.tokeniser.encode(texts, with_offsets=True)


def test_tags_are_read_back_as_the_same_spans(parent: Bundle) -> None:
    labels = tag_labels(("neg", "pos"))
    assert labels == ("O", "B-neg", "I-neg", "B-pos", "I-pos")
    texts = ["手机很好电池差", "great food, slow staff", "快"]
    spans = [
        frozenset({(0, 2, "pos"), (4, 6, "neg")}),
        frozenset({(6, 10, "pos"), (12, 22, "neg")}),
        frozenset(),
    ]
    tokens = encoded(parent, texts)
    tags = token_tags(spans, labels, tokens)
    assert (tags == IGNORED).sum() == 2 * len(texts)
    probs = np.eye(len(labels), dtype=np.float32)[np.maximum(tags, 0)]
    found = find_spans(labels, probs, tokens, "IOB2").to_pylist()
    assert [frozenset((s["start"], s["end"], s["label"]) for s in own) for own in found] == spans


def test_neighbouring_spans_stay_two(parent: Bundle) -> None:
    labels = tag_labels(("a",))
    spans = frozenset({(0, 1, "a"), (1, 2, "a")})
    tags = token_tags([spans], labels, encoded(parent, ["手机"]))
    assert tags.tolist() == [IGNORED, 1, 1, IGNORED]
