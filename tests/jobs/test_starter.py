"""Taxonomies, weak labels, cells, written texts, the shipped files: exact on rows small enough to read."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.config import SettingsError, load_config, parse_config
from jobs.evaluate.labels import OPEN
from jobs.starter.label import Labeller, Origin
from jobs.starter.marks import Marker, level
from jobs.starter.mixed import joined
from jobs.starter.phrases import PhraseFile, written
from jobs.starter.pieces import pieces
from jobs.starter.said import Said, agreed
from jobs.starter.sets import SETS
from jobs.starter.taxonomy import Taxonomy, read_taxonomy
from jobs.starter.weak import Tally
from jobs.train.pretrain_settings import PretrainSettings, SplitSettings

ROOM = Path(__file__).parents[2] / "jobs" / "starter"

LABELS: list[dict[str, Any]] = [
    {
        "name": "price",
        "parent": "money",
        "zh": "价格",
        "en": "price",
        "patterns": {"zh": ["性价比", "太贵"], "en": ["price[sd]?", r"\$\d+ for"]},
        "hints": {"zh": ["贵"], "en": ["cheap"]},
    },
    {"name": "delivery", "zh": "配送", "en": "delivery", "patterns": {"zh": ["快递"], "en": ["deliver(y|ed)"]}},
    {"name": "praise", "zh": "表扬", "en": "praise"},
]
TINY: dict[str, Any] = {
    "groups": {"money": {"zh": "钱", "en": "money"}},
    "labels": LABELS,
    "complete": ["whole"],
    "sources": {"whole": {"price": ["cost", "value"], "delivery": ["late"]}, "part": {"price": ["cost"]}},
}


def taxonomy(**changes: Any) -> Taxonomy:
    return parse_config({**TINY, **changes}, Taxonomy, "my.yaml")


def label(**changes: Any) -> dict[str, Any]:
    return {**LABELS[0], **changes}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": [*LABELS, label()]}, "labels: each name once, but price stands there twice"),
        ({"labels": [label(parent="cash"), *LABELS[1:]]}, "price has the parent 'cash'; groups are money"),
        ({"groups": {}}, "price has the parent 'money'; groups are none"),
        (
            {"labels": [label(patterns={"en": ["ok", "(late"]}), *LABELS[1:]]},
            "labels.0.patterns.en.1: not a regular expression: missing ), unterminated subpattern",
        ),
        ({"labels": [label(patterns={"en": ["(late"]}), *LABELS[1:]]}, "(got '(late')"),
        ({"labels": [label(hints={"zh": [""]}), *LABELS[1:]]}, "labels.0.hints.zh.0: String should have at least 1"),
        ({"labels": [label(name="Price level"), *LABELS[1:]]}, "labels.0.name: String should match pattern"),
        ({"labels": [label(colour="red"), *LABELS[1:]]}, "unknown key labels.0.colour"),
        ({"sources": {"whole": {"cost": ["x"]}}}, "sources.whole: no such label: ['cost']"),
        ({"complete": ["others"]}, "complete: no such set under sources: ['others']"),
        ({"labels": LABELS[:1]}, "labels: List should have at least 2 items"),
    ],
)
def test_a_wrong_taxonomy_is_told_by_field_and_value(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError) as error:
        taxonomy(**changes)
    assert says in str(error.value)
    assert str(error.value).startswith("my.yaml: settings can't be used:")


@pytest.mark.parametrize(
    ("text", "price", "delivery"),
    [
        ("Great PRICE!", 1, 0),
        ("it is cheap", OPEN, 0),
        ("prices and a delivery", 1, 1),
        ("appraise the overpriced", 0, 0),  # patterns stand for whole words
        ("paid $5 for it", 1, 0),
        ("性价比高，快递慢", 1, 1),
        ("有点贵", OPEN, 0),
        ("nothing of that", 0, 0),
    ],
)
def test_words_decide_or_leave_open(text: str, price: int, delivery: int) -> None:
    found = Marker(taxonomy()).by_words(text)
    assert found == {"price": price, "delivery": delivery, "praise": OPEN}


def test_a_hint_is_enough_in_the_words_that_an_opinion_is_about() -> None:
    assert Marker(taxonomy()).by_words("菜有点贵", ["贵"])["price"] == 1


def test_a_sets_own_label_says_no_only_where_it_is_complete() -> None:
    marker = Marker(taxonomy())
    assert marker.by_set("whole", ["value"]) == {"price": 1, "delivery": 0}
    assert marker.by_set("whole", ["else"]) == {"price": 0, "delivery": 0}
    assert marker.by_set("part", ["cost"]) == {"price": 1}
    assert marker.by_set("part", ["else"]) == {}
    assert marker.by_set("unknown", ["cost"]) == {}


@pytest.mark.parametrize(
    ("decisions", "is_complaint", "says"),
    [
        ({"medium": 1, "high": 1}, None, "high"),
        ({"medium": 1, "high": OPEN}, True, "medium"),
        ({"medium": 0, "high": 0}, False, "low"),
        ({"medium": 0, "high": OPEN}, False, "low|medium"),
        ({"medium": 0, "high": 0}, True, "low|medium"),
        ({"medium": 0, "high": 0}, None, "low|medium"),
        ({"medium": OPEN, "high": 0}, True, None),
        ({"low": OPEN, "medium": 0, "high": 0}, False, "low"),  # a level without patterns isn't hinted at
    ],
)
def test_levels(decisions: dict[str, int], is_complaint: bool | None, says: str | None) -> None:
    assert level(decisions, ("low", "medium", "high"), is_complaint=is_complaint) == says


def test_agreement() -> None:
    assert agreed([]) is None
    assert agreed(["neutral"]) == "neutral"
    assert agreed(["neutral", "positive"]) == "positive"
    assert agreed(["negative", "positive"]) == "neutral"


def labeller() -> Labeller:
    levels: list[dict[str, Any]] = [{"name": name, "zh": name, "en": name} for name in ("low", "medium")]
    levels.append({"name": "high", "zh": "高", "en": "high", "patterns": {"en": ["fire"]}})
    return Labeller(taxonomy(), taxonomy(), parse_config({"labels": levels}, Taxonomy, "urgency.yaml"))


def test_a_row_is_masked_and_its_spans_move_along() -> None:
    said = Said("call 13812345678 or ＦＲＡＮＫ", aspects=frozenset({(20, 25, "positive")}), stars="4|5")
    row = labeller().row(said, Origin("any", is_feedback=False), 2000)
    assert row is not None
    assert row["text"] == "call [PHONE] or FRANK"
    assert row["aspects"] == [{"start": 16, "end": 21, "label": "positive"}]
    assert (row["stars"], row["topics"], row["urgency"], row["brands"]) == ("4|5", None, None, None)


def test_cells_mark_what_is_open() -> None:
    said = Said("cheap, delivered", values=("cost",), intents={"praise": 1, "unheard_of": 1}, is_complaint=False)
    row = labeller().row(said, Origin("part", is_feedback=True), 2000)
    assert row is not None
    assert row["topics"] == ["price", "delivery", "?praise"]  # the set's own label outranks a hint
    assert row["intent"] == ["price", "delivery", "praise"]
    assert row["urgency"] == "low|medium"  # medium has no words, so it is never ruled out
    assert labeller().row(Said("it is on fire"), Origin("x", is_feedback=True), 2000) is not None


def test_a_cut_text_loses_the_spans_behind_the_cut() -> None:
    said = Said("good soup and bad rice", aspects=frozenset({(5, 9, "positive"), (18, 22, "negative")}))
    row = labeller().row(said, Origin("x", is_feedback=False), 12)
    assert row is not None
    assert row["text"] == "good soup an"
    assert row["aspects"] == [{"start": 5, "end": 9, "label": "positive"}]


def test_nothing_is_left_of_an_empty_text() -> None:
    assert labeller().row(Said(" \u200b "), Origin("x", is_feedback=True), 2000) is None


def test_what_patterns_are_worth() -> None:
    tally = Tally()
    for truth, by_words, times in ((1, 1, 6), (1, OPEN, 3), (1, 0, 3), (0, 1, 2), (0, 0, 50)):
        for _ in range(times):
            tally.add("mams", {"price": truth}, {"price": by_words, "other": 1})
    assert list(tally.rows())[2:] == ["| mams | price | 12 | 50 | 25 | 75 |"]


def test_written_texts(tmp_path: Path) -> None:
    path = tmp_path / "phrases.yaml"
    group = {
        "lang": "zh",
        "sentiment": "neutral",
        "urgency": "low",
        "intents": ["question"],
        "topics": ["returns"],
        "train": ["怎么<do>(？|)"],
        "dev": ["怎么退货？", "能退吗"],
    }
    scarce = {**group, "each": 1, "maybe": ["price"], "train": ["要<do>"], "dev": []}
    file = {"each": 10, "slots": {"zh": {"do": ["退货", "换货"]}}, "groups": [group, scarce]}
    path.write_text(yaml.safe_dump(file, allow_unicode=True), encoding="utf-8")
    found = list(written(path, ("price", "returns"), ("question",), seed=0))
    train = {said.text for said, _, split in found if split == "train"}
    assert train > {"怎么退货", "怎么退货？", "怎么换货", "怎么换货？"}
    assert len(train) == 5  # of the second group one
    assert [said.text for said, _, split in found if split == "dev"] == ["能退吗"]  # trained-on wordings aren't dev
    said, lang, _ = found[0]
    assert (lang, said.sentiment, said.urgency) == ("zh", "neutral", "low")
    assert said.topics == {"price": 0, "returns": 1}
    assert said.intents == {"question": 1}
    assert found[-1][0].topics == {"returns": 1}  # of a price nobody knows


def test_praise_and_blame_in_one_text() -> None:
    parts = {"positive": ["味道好。"] * 60, "negative": ["太吵", "长" * 121] * 60}
    rng = random.Random(0)  # noqa: S311 - no secret
    found = list(joined(parts, "zh", 100, rng))
    assert len(found) == 60
    for said in found:
        good, bad = said.text.count("味道好"), said.text.count("太吵")
        aim = ("neutral", "2|3|4") if good == bad else ("positive", "3|4") if good > bad else ("negative", "2|3")
        assert (said.sentiment, said.stars) == aim
        assert good and bad and "长" not in said.text and "。，" not in said.text
        assert said.intents == {"complaint": 1, "praise": 1}
    assert {said.sentiment for said in found} == {"positive", "neutral", "negative"}
    assert list(joined({"positive": ["好"]}, "zh", 10, rng)) == []


def test_reviews_are_cut_into_sentences_and_these_into_clauses() -> None:
    texts = [
        "I like the screen. The battery is dead after a day! No.",
        "a gorgeous film , but the plot goes nowhere",
        "one piece alone is the text",
    ]
    rng = random.Random(0)  # noqa: S311
    found = list(pieces(texts, 10, rng))
    assert sorted(found) == [
        "I like the screen.",
        "The battery is dead after a day!",
        "a gorgeous film",
        "but the plot goes nowhere",
    ]
    assert len(list(pieces(texts * 2, 3, rng))) == 3


def test_the_shipped_files_fit_together() -> None:
    topics, intents, urgency = (read_taxonomy(ROOM / f"{name}.yaml") for name in ("taxonomy", "intents", "urgency"))
    file = PhraseFile.model_validate(yaml.safe_load((ROOM / "phrases.yaml").read_text(encoding="utf-8")))
    assert all(label.parent in topics.groups for label in topics.labels)
    for group in file.groups:
        assert {*group.topics, *group.maybe} <= set(topics.names)
        assert not {*group.topics} & {*group.maybe}
        assert set(group.intents) <= set(intents.names)
        assert set(group.urgency.split("|")) <= set(urgency.names)
    for one in (topics, intents, urgency):
        assert one.sources.keys() <= SETS.keys()


def test_the_trunk_reads_only_what_may_train_and_no_dev_row() -> None:
    *others, prose = load_config(ROOM / "pretrain.yaml", [], PretrainSettings).data
    assert prose.input == "../shared/data/text/zh_prose.parquet"  # unlabelled: nothing is measured on it
    for source in others:
        folder, _, file = source.input.rpartition("/")
        assert folder == "out/starter/data"
        assert SETS[file.removesuffix(".parquet")].may_train
        assert source.split == SplitSettings(column="split", value="train")


@pytest.mark.parametrize(
    ("text", "intent", "topic"),
    [
        ("请问怎么退货", "question", "returns"),
        ("再也不会来了，服务太差", "churn", "service"),
        ("建议增加停车位", "suggestion", "facilities"),
        ("下次还来，味道不错", "purchase", "taste"),
        ("how do I return this dress?", "question", "returns"),
        ("I will never order again, shipping took weeks", "churn", "delivery"),
        ("It would be nice if the app had a dark mode", "suggestion", "app"),
        ("will definitely buy again, great price", "purchase", "price"),
    ],
)
def test_the_shipped_patterns_know_plain_cases(text: str, intent: str, topic: str) -> None:
    assert Marker(read_taxonomy(ROOM / "intents.yaml")).by_words(text)[intent] == 1
    assert Marker(read_taxonomy(ROOM / "taxonomy.yaml")).by_words(text)[topic] == 1
