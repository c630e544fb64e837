"""Which public sets there are, whether they may train a bundle that is shipped, and which column is which label.

A label is the *set of answers that aren't wrong*, as bits over a head's labels: a review known only to be positive
allows 4 and 5 stars. 0 means that nothing is known. Where a set has several opinions in one text, agreement gives
that polarity and disagreement gives neutral: weak, but the only source of mixed texts.
"""

from __future__ import annotations

import ast
import difflib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.heads import SENTIMENT, SENTIMENT_LABELS, HeadSpec

HEADS = (
    HeadSpec(name=SENTIMENT, kind="single", labels=SENTIMENT_LABELS),
    HeadSpec(name="stars", kind="ordinal", labels=("1", "2", "3", "4", "5")),
)
NEGATIVE, NEUTRAL, POSITIVE = 0b001, 0b010, 0b100
UNKNOWN = 0
_STARS_OF = {NEGATIVE: 0b00011, NEUTRAL: 0b01110, POSITIVE: 0b11000}
_POLARITIES = {"negative": NEGATIVE, "neutral": NEUTRAL, "positive": POSITIVE}
_CODES = {"NEG": NEGATIVE, "NEU": NEUTRAL, "POS": POSITIVE}  # one set's parts differ in how they write polarity
_CODES |= {"Negative": NEGATIVE, "Neutral": NEUTRAL, "Positive": POSITIVE}

_POSITIVE_EMOTIONS = {
    "admiration",
    "amusement",
    "approval",
    "caring",
    "excitement",
    "gratitude",
    "joy",
    "love",
    "optimism",
    "pride",
    "relief",
}
_NEGATIVE_EMOTIONS = {
    "anger",
    "annoyance",
    "disappointment",
    "disapproval",
    "disgust",
    "embarrassment",
    "fear",
    "grief",
    "nervousness",
    "remorse",
    "sadness",
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """One text and the answers that aren't wrong for it, as bits over each head's labels."""

    text: str
    sentiment: int = UNKNOWN
    stars: int = UNKNOWN


@dataclass(frozen=True)
class SetSpec:
    """A public set: where it lies, its terms, and how a row becomes examples."""

    file: str
    licence: str
    source: str  # whom the card names
    examples: Callable[[Row], Iterable[Example]]
    may_train: bool = True


def check_may_train(name: str) -> None:
    """Refuse a set that isn't known, or whose terms don't allow training what is shipped.

    Raises
    ------
    ValueError : names the set, and the nearest known one.
    """
    if name not in SETS:
        near = difflib.get_close_matches(name, SETS, n=1)
        raise ValueError(f"unknown set {name!r}: " + (f"did you mean {near[0]}?" if near else f"known: {sorted(SETS)}"))
    if not SETS[name].may_train:
        raise ValueError(f"set {name!r} may be measured on, not trained on: its terms are {SETS[name].licence}")


def read_set(name: str, data: Path, split: str) -> Iterator[Example]:
    """Examples of one split, in the file's order. A set without splits is all `train`.

    Raises
    ------
    ValueError : the set's file isn't there.
    """
    path = data / SETS[name].file
    if not path.is_file():
        raise ValueError(f"set {name!r} should lie at {path}, and there is no such file")
    table = pq.read_table(path)
    if "split" in table.column_names:
        table = table.filter(pc.equal(table["split"], split))
    elif split != "train":
        return
    for batch in table.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            yield from (example for example in SETS[name].examples(row) if example.text.strip())


def _review(text: str, sentiment: int) -> Example:
    """A product review, whose polarity also bounds its stars."""
    return Example(text, sentiment, _STARS_OF.get(sentiment, UNKNOWN))


def _agreed(polarities: Iterable[int]) -> int:
    """The one polarity of all opinions, neutral where they differ, unknown where there is none."""
    found = set(polarities)
    if not found:
        return UNKNOWN
    found = found - {NEUTRAL} or found
    return found.pop() if len(found) == 1 else NEUTRAL


def _by_word(row: Row) -> Iterator[Example]:
    yield _review(row["text"], _POLARITIES[row["sentiment"]])


def _by_digit(row: Row) -> Iterator[Example]:
    yield _review(row["text"], POSITIVE if row["label"] == "1" else NEGATIVE)


def _dianping(row: Row) -> Iterator[Example]:
    triplets = ast.literal_eval(row["triplets"])
    yield _review(row["text"], _agreed(_CODES[polarity] for _, _, polarity in triplets))


def _opinions(row: Row) -> Iterator[Example]:
    """The opinions of a review as texts of their own, alone and after what they are about: very short reviews."""
    tokens = row["tokens"].split(" ")
    for aspect, opinion, polarity in ast.literal_eval(row["triplets"]):
        about, said = ("".join(tokens[first : last + 1]) for first, last in (aspect, opinion))
        yield _review(said, _CODES[polarity])
        yield _review(about + said, _CODES[polarity])


def _womens(row: Row) -> Iterator[Example]:
    rating = int(row["rating"])
    sentiment = NEGATIVE if rating < 3 else NEUTRAL if rating == 3 else POSITIVE
    text = f"{row['title']}. {row['text']}" if row["title"] else row["text"]
    yield Example(text, sentiment, 1 << (rating - 1))


def _goemotions(row: Row) -> Iterator[Example]:
    emotions = set(json.loads(row["emotions"]))
    good, bad = emotions & _POSITIVE_EMOTIONS, emotions & _NEGATIVE_EMOTIONS
    sentiment = UNKNOWN if good and bad else POSITIVE if good else NEGATIVE if bad else NEUTRAL
    yield Example(row["text"], sentiment)


def _product_aspects(row: Row) -> Iterator[Example]:
    scores = [int(aspect["polarity"]) for aspect in json.loads(row["aspects"])]
    yield _review(row["text"], _agreed(POSITIVE if s > 0 else NEGATIVE for s in scores if s))


def _mams(row: Row) -> Iterator[Example]:
    yield _review(row["text"], _agreed(_POLARITIES[aspect["polarity"]] for aspect in json.loads(row["aspects"])))


def _headlines(row: Row) -> Iterator[Example]:
    yield Example(row["text"], _agreed(_POLARITIES[entity["polarity"]] for entity in json.loads(row["entities"])))


def _question(row: Row) -> Iterator[Example]:
    yield Example(row["text"], NEUTRAL)


def _complaint(row: Row) -> Iterator[Example]:
    yield Example(row["text"], NEGATIVE)


def _complaint_and_reply(row: Row) -> Iterator[Example]:
    yield Example(row["text"], NEGATIVE)
    yield Example(row["reply"], NEUTRAL)


def _unlabelled(row: Row) -> Iterator[Example]:
    yield Example(row["text"])


SETS: dict[str, SetSpec] = {
    "chnsenticorp": SetSpec("feedback/chnsenticorp.parquet", "Apache-2.0", "ChnSentiCorp (Tan Songbo)", _by_word),
    "dianping_triplets": SetSpec(
        "feedback/dianping_triplets.parquet", "MIT", "Dianping opinion triplets (DMASTE/ASTE in Chinese)", _dianping
    ),
    "dianping_opinions": SetSpec(
        "feedback/dianping_triplets.parquet", "MIT", "the same, each opinion a text of its own", _opinions
    ),
    "public_complaints": SetSpec("feedback/public_complaints.parquet", "MIT", "messages to city offices", _complaint),
    "public_complaints_replied": SetSpec(
        "feedback/public_complaints_replied.parquet", "MIT", "messages to city offices, replied", _complaint_and_reply
    ),
    "goemotions": SetSpec("feedback/goemotions.parquet", "Apache-2.0", "GoEmotions (Demszky et al. 2020)", _goemotions),
    "banking77": SetSpec("feedback/banking77.parquet", "CC BY 4.0", "Banking77 (Casanueva et al. 2020)", _question),
    "clinc150": SetSpec("feedback/clinc150.parquet", "CC BY 3.0", "CLINC150 (Larson et al. 2019)", _question),
    "amazon_polarity_10k": SetSpec(
        "feedback/amazon_polarity_10k.parquet",
        "MIT",
        "Amazon polarity (McAuley & Leskovec 2013; Zhang 2015)",
        _by_digit,
    ),
    "sst2": SetSpec("feedback/sst2.parquet", "MIT", "SST-2 (Socher et al. 2013)", _by_digit),
    "womens_clothing": SetSpec(
        "feedback/womens_clothing.parquet", "CC0", "Women's E-Commerce Clothing Reviews (Brooks 2018)", _womens
    ),
    "pros_cons": SetSpec("feedback/pros_cons.parquet", "CC BY 4.0", "Pros and Cons (Ganapathibhotla & Liu)", _by_word),
    "product_review_aspects": SetSpec(
        "feedback/product_review_aspects.parquet", "CC BY 4.0", "Customer Review Data (Hu & Liu 2004)", _product_aspects
    ),
    "mams_acsa": SetSpec("feedback/mams_acsa.parquet", "Apache-2.0", "MAMS (Jiang et al. 2019)", _mams),
    "news_headline_entities": SetSpec(
        "feedback/news_headline_entities.parquet", "MIT", "SEntFiN (Sinha et al. 2022)", _headlines
    ),
    "cfpb_complaints": SetSpec(
        "feedback/cfpb_complaints.parquet", "public domain (US)", "CFPB consumer complaints", _complaint
    ),
    "zh_prose": SetSpec(
        "text/zh_prose.parquet",
        "Apache-2.0, BSD-3, CC BY-SA, public law (per row)",
        "Chinese technical books, documentation, news translations, statutes",
        _unlabelled,
    ),
    "waimai_10k": SetSpec("feedback/waimai_10k.parquet", "not stated", "waimai_10k", _by_word, may_train=False),
    "online_shopping_10_cats": SetSpec(
        "feedback/online_shopping_10_cats.parquet", "not stated", "online_shopping_10_cats", _by_word, may_train=False
    ),
}
