"""What each public set says: exact on rows small enough to read, and every real row can be said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.starter.said import Said
from jobs.starter.sets import SETS
from jobs.starter.taxonomy import read_taxonomy

ROOM = Path(__file__).parents[2] / "jobs" / "starter"
DATA = Path(__file__).parents[3] / "shared" / "data" / "feedback"

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
                brands=frozenset(),
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
        [words("x", **REVIEW["neutral"], values=("food", "price"), brands=frozenset())],
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
                brands=frozenset(),
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
                brands=frozenset(),
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
        assert mapped <= values, f"{file}: {sorted(mapped - values)} are no values of {name}"
