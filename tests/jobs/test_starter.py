"""What each public set says, taxonomies, weak labels, written texts: exact on rows small enough to read."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from cluster.config import SettingsError, load_config, parse_config
from jobs.evaluate.labels import OPEN
from jobs.starter.label import Labeller, Origin
from jobs.starter.marks import Marker, level
from jobs.starter.mixed import joined
from jobs.starter.phrases import PhraseFile, written
from jobs.starter.said import Said, agreed
from jobs.starter.sets import SETS
from jobs.starter.taxonomy import Taxonomy, read_taxonomy
from jobs.starter.weak import Tally
from jobs.train.pretrain_settings import PretrainSettings, SplitSettings

ROOM = Path(__file__).parents[2] / "jobs" / "starter"
DATA = Path(__file__).parents[3] / "shared" / "data" / "feedback"

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


BLAME = {"complaint": 1, "praise": 0}
PRAISE = {"complaint": 0, "praise": 1}
NEGATIVE: dict[str, Any] = {"sentiment": "negative", "intents": BLAME, "is_complaint": True}
REVIEW: dict[str, dict[str, Any]] = {
    "negative": {**NEGATIVE, "stars": "1|2"},
    "neutral": {"sentiment": "neutral", "stars": "2|3|4"},
    "positive": {"sentiment": "positive", "stars": "4|5", "intents": PRAISE, "is_complaint": False},
}
NONE = dict.fromkeys(("complaint", "praise", "question", "request", "suggestion", "purchase", "churn"), 0)
DIANPING = {
    "text": "味道好，服务差服务好",
    "tokens": "味 道 好 ，服 务 差 服 务 好",  # a token may hold a mark and a character
    "triplets": (
        "[((0, 1), (2, 2), 'POS'), ((4, 4), (5, 5), 'NEG'), ((4, 4), (8, 8), 'Positive'), ((-1, -1), (5, 5), 'NEG')]"
    ),
}


def words(text: str, **more: Any) -> dict[str, Any]:
    return {"text": text, **more}


CASES: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    ("chnsenticorp", words("好", sentiment="positive"), [words("好", **REVIEW["positive"])]),
    ("pros_cons", words("bad", sentiment="negative"), [words("bad", **REVIEW["negative"])]),
    ("amazon_polarity_10k", words("bad", label="0"), [words("bad", **REVIEW["negative"])]),
    ("sst2", words("good", label="1"), [words("good", **REVIEW["positive"])]),
    (
        "womens_clothing",
        words("Nice.", title="Ok", rating=3),
        [words("Ok. Nice.", **{**REVIEW["neutral"], "stars": "3"})],
    ),
    (
        "womens_clothing",
        words("Nice.", title=None, rating=4),
        [words("Nice.", **{**REVIEW["positive"], "stars": "4"})],
    ),
    (
        "dianping_triplets",
        DIANPING,
        [
            words(
                DIANPING["text"],
                **REVIEW["neutral"],
                targets=("味道", "务"),
                aspects=frozenset({(0, 2, "positive"), (5, 6, "neutral")}),
            )
        ],
    ),
    (
        "dianping_opinions",
        {**DIANPING, "triplets": "[((0, 1), (2, 2), 'POS'), ((-1, -1), (5, 5), 'NEG')]"},
        [
            words("好", **REVIEW["positive"]),
            words("味道好", **REVIEW["positive"], targets=("味道",), aspects=frozenset({(0, 2, "positive")})),
            words("差", **REVIEW["negative"]),
        ],
    ),
    (
        "product_review_aspects",
        words(
            "two features , bad case .",
            aspects='[{"aspect": "feature", "polarity": 2}, {"aspect": "player", "polarity": 1}]',
        ),
        [
            words(
                "two features , bad case .",
                **REVIEW["positive"],
                targets=("features",),
                aspects=frozenset({(4, 12, "positive")}),
            )
        ],
    ),
    (
        "product_review_aspects",
        words("nothing", aspects="[]"),
        [words("nothing", aspects=frozenset())],
    ),
    (
        "mams_acsa",
        words("x", aspects='[{"aspect": "food", "polarity": "positive"}, {"aspect": "price", "polarity": "negative"}]'),
        [words("x", **REVIEW["neutral"], values=("food", "price"))],
    ),
    (
        "news_headline_entities",
        words(
            "Tata Steel up, TATA down",
            entities='[{"entity": "Tata", "polarity": "negative"}, {"entity": "Tata Steel", "polarity": "positive"}]',
        ),
        [words("Tata Steel up, TATA down", sentiment="neutral", brands=None)],  # both names begin at the same place
    ),
    (
        "news_headline_entities",
        words("Sensex flat as ITC gains", entities='[{"entity": "itc", "polarity": "positive"}]'),
        [words("Sensex flat as ITC gains", sentiment="positive", brands=frozenset({(15, 18, "positive")}))],
    ),
    (
        "goemotions",
        words("x", emotions='["joy", "surprise"]'),
        [words("x", sentiment="positive", emotion=("joy", "surprise"))],
    ),
    ("goemotions", words("x", emotions='["joy", "anger"]'), [words("x", emotion=("joy", "anger"))]),
    (
        "banking77",
        words("Where is my card?", intent="card_arrival"),
        [
            words(
                "Where is my card?",
                sentiment="neutral",
                values=("card_arrival",),
                intents={"praise": 0, "question": 1},
                is_complaint=False,
            )
        ],
    ),
    (
        "banking77",
        words("My card is lost", intent="lost_or_stolen_card"),
        [
            words(
                "My card is lost",
                sentiment="neutral",
                values=("lost_or_stolen_card",),
                intents={"praise": 0},
                is_complaint=False,
            )
        ],
    ),
    (
        "clinc150",
        words("freeze my account", intent="freeze_account"),
        [
            words(
                "freeze my account",
                sentiment="neutral",
                values=("freeze_account",),
                intents={"praise": 0, "complaint": 0, "request": 1},
                is_complaint=False,
            )
        ],
    ),
    (
        "clinc150",
        words("hi there", intent="greeting"),
        [
            words(
                "hi there",
                sentiment="neutral",
                values=("greeting",),
                intents={"praise": 0, "complaint": 0},
                is_complaint=False,
            )
        ],
    ),
    ("cfpb_complaints", words("x", category="Mortgage"), [words("x", **NEGATIVE, values=("Mortgage",))]),
    ("public_complaints", words("路灯坏了", subject="路灯坏了没人修"), [words("路灯坏了", **NEGATIVE)]),
    (
        "public_complaints",
        words("想知道政策", subject="咨询A市政策"),
        [words("想知道政策", sentiment="negative", intents={"praise": 0, "question": 1})],
    ),
    (
        "public_complaints",
        words("修路", subject="建议修路"),
        [words("修路", sentiment="negative", intents={"praise": 0, "suggestion": 1})],
    ),
    (
        "public_complaints_replied",
        words("路灯坏了", subject="路灯", reply="已修复"),
        [words("路灯坏了", **NEGATIVE), words("已修复", sentiment="neutral", intents=NONE)],
    ),
    (
        "airline_tweets",
        words("x", sentiment="negative", reason="Late Flight"),
        [words("x", sentiment="negative", values=("Late Flight",))],
    ),
    ("airline_tweets", words("x", sentiment="negative", reason="Can't Tell"), [words("x", sentiment="negative")]),
    ("airline_tweets", words("x", sentiment="neutral", reason=None), [words("x", sentiment="neutral")]),
    ("car_aspects", words("x", aspects='[{"aspect": "价格", "polarity": 1}]'), [words("x", values=("价格",))]),
    ("complaint_tweets", words("x", complaint=1), [words("x", intents={"complaint": 1})]),
    ("suggestions", words("x", suggestion=0), [words("x", intents={"suggestion": 0})]),
]


@pytest.mark.parametrize(("name", "row", "says"), CASES)
def test_what_a_set_says(name: str, row: dict[str, Any], says: list[dict[str, Any]]) -> None:
    assert list(SETS[name].said(row)) == [Said(**one) for one in says]


def test_every_set_has_a_case() -> None:
    assert {name for name, _, _ in CASES} == SETS.keys()


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
    scarce = {**group, "each": 1, "train": ["要<do>"], "dev": []}
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


def test_the_shipped_files_fit_together() -> None:
    topics, intents, urgency = (read_taxonomy(ROOM / f"{name}.yaml") for name in ("taxonomy", "intents", "urgency"))
    file = PhraseFile.model_validate(yaml.safe_load((ROOM / "phrases.yaml").read_text(encoding="utf-8")))
    assert all(label.parent in topics.groups for label in topics.labels)
    for group in file.groups:
        assert set(group.topics) <= set(topics.names)
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


@pytest.mark.data
@pytest.mark.parametrize("name", SETS)
def test_every_row_of_the_real_sets_can_be_said(name: str) -> None:
    path = DATA / f"{SETS[name].file}.parquet"
    if not path.is_file():
        pytest.skip(f"no {path}")
    rows = pq.read_table(path).to_pylist()
    said = [one for row in rows for one in SETS[name].said(row)]
    assert len(said) >= len(rows)
    for one in said:
        for start, end, polarity in (one.aspects or frozenset()) | (one.brands or frozenset()):
            assert 0 <= start < end <= len(one.text)
            assert polarity in ("negative", "neutral", "positive")
    values = {value for one in said for value in one.values or ()}
    for file in ("taxonomy", "intents", "urgency"):
        source = read_taxonomy(ROOM / f"{file}.yaml").sources.get(name, {})
        mapped = {value for meaning in source.values() for value in meaning}
        if one.values is not None or values:
            assert mapped <= values, f"{file}: {sorted(mapped - values)} are no values of {name}"
