"""How a row of each public set becomes texts with labels: the one place that knows their columns.

Sets that may train what is shipped are those with terms; the others are only measured on. Where a set has several
opinions in one text, agreement gives that polarity and disagreement neutral.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from jobs.starter.said import NEGATIVE, NEUTRAL, POSITIVE, Said, Spans, agreed, intents_of, review

Row = dict[str, Any]

NO_COMPANY: Spans = frozenset()  # dishes and bank cards aren't companies: what keeps `brands` quiet off the news
_CODES = {"NEG": NEGATIVE, "NEU": NEUTRAL, "POS": POSITIVE}  # one set's parts differ in how they write polarity
_CODES |= {"Negative": NEGATIVE, "Neutral": NEUTRAL, "Positive": POSITIVE}
_GOOD = {"admiration", "amusement", "approval", "caring", "excitement", "gratitude", "joy", "love", "optimism"}
_GOOD |= {"pride", "relief"}
_BAD = {"anger", "annoyance", "disappointment", "disapproval", "disgust", "embarrassment", "fear", "grief"}
_BAD |= {"nervousness", "remorse", "sadness"}
_ASKS = re.compile(
    r"\?|^(what|how|why|when|where|which|who|whose|can|could|do|does|did|is|are|am|was|will|would|should|may|has|have)\b"
)
_SMALL_TALK = {"yes", "no", "maybe", "thank_you", "greeting", "goodbye", "repeat", "cancel", "oos"}


@dataclass(frozen=True)
class Terms:
    """Whom the card names, and the licence under which a set may train what is shipped."""

    source: str
    licence: str


@dataclass(frozen=True)
class SetSpec:
    """A public set: its file under the folder of sets, and what its rows say.

    terms : None: they don't allow training what is shipped, or nobody states them.
    is_feedback : words of customers, so that patterns may mark topics, intents and urgency.
    """

    file: str
    said: Callable[[Row], Iterable[Said]]
    terms: Terms | None = None
    is_feedback: bool = False

    @property
    def may_train(self) -> bool:
        """Whether it may train what is shipped."""
        return self.terms is not None


def _by_word(row: Row) -> Iterator[Said]:
    yield review(row["text"], row["sentiment"])


def _by_digit(row: Row) -> Iterator[Said]:
    yield review(row["text"], POSITIVE if row["label"] == "1" else NEGATIVE)


def _womens(row: Row) -> Iterator[Said]:
    rating = row["rating"]
    polarity = NEGATIVE if rating < 3 else NEUTRAL if rating == 3 else POSITIVE
    text = f"{row['title']}. {row['text']}" if row["title"] else row["text"]
    yield replace(review(text, polarity), stars=str(rating))


def _triplets(row: Row) -> Iterator[tuple[tuple[int, int], tuple[int, int], str]]:
    """Characters of the aspect (start equals end: it isn't in the text) and of the opinion, with its polarity."""
    tokens = row["tokens"].split(" ")
    ends = [0, *accumulate(len(token) for token in tokens)]
    for (first, last), (said_first, said_last), code in ast.literal_eval(row["triplets"]):
        aspect = (ends[first], ends[last + 1]) if first >= 0 else (0, 0)
        yield aspect, (ends[said_first], ends[said_last + 1]), _CODES[code]


def _dianping(row: Row) -> Iterator[Said]:
    """An aspect of several opinions has the polarity that these agree on."""
    polarities: dict[tuple[int, int], list[str]] = {}
    found = list(_triplets(row))
    for aspect, _, polarity in found:
        if aspect[0] < aspect[1]:
            polarities.setdefault(aspect, []).append(polarity)
    spans = frozenset((start, end, agreed(own) or NEUTRAL) for (start, end), own in polarities.items())
    targets = tuple(row["text"][start:end] for start, end in sorted(polarities))
    overall = agreed(polarity for _, _, polarity in found)
    yield replace(review(row["text"], overall), targets=targets, aspects=spans, brands=NO_COMPANY)


def _opinions(row: Row) -> Iterator[Said]:
    """The opinions of a review as texts of their own, alone and after what they are about: very short reviews."""
    text = row["text"]
    for (start, end), (first, last), polarity in _triplets(row):
        about, words = text[start:end], text[first:last]
        yield review(words, polarity)
        if about:
            spans = frozenset({(0, len(about), polarity)})
            yield replace(review(about + words, polarity), targets=(about,), aspects=spans)


def _product_aspects(row: Row) -> Iterator[Said]:
    """An aspect that isn't in the sentence in so many words has no span."""
    spans: set[tuple[int, int, str]] = set()
    polarities = []
    for aspect in json.loads(row["aspects"]):
        if polarity := _of_score(int(aspect["polarity"])):
            polarities.append(polarity)
            spans |= _free(_word(row["text"], aspect["aspect"], polarity), spans)
    targets = tuple(row["text"][start:end] for start, end, _ in sorted(spans))
    yield replace(review(row["text"], agreed(polarities)), targets=targets, aspects=frozenset(spans))


def _of_score(score: int) -> str | None:
    return POSITIVE if score > 0 else NEGATIVE if score < 0 else None


def _word(text: str, term: str, label: str) -> Spans:
    """Where a term stands, to the end of its last word: sets give `feature` for `features`."""
    found = re.search(rf"(?<!\w){re.escape(term)}\w{{0,3}}(?!\w)", text, re.IGNORECASE)
    return frozenset({(*found.span(), label)}) if found else frozenset()


def _free(spans: Spans, taken: Iterable[tuple[int, int, str]]) -> Spans:
    """Those that don't overlap with what is taken."""
    return frozenset(one for one in spans if not any(one[0] < end and start < one[1] for start, end, _ in taken))


def _mams(row: Row) -> Iterator[Said]:
    aspects = json.loads(row["aspects"])
    values = tuple(aspect["aspect"] for aspect in aspects)
    said = review(row["text"], agreed(aspect["polarity"] for aspect in aspects))
    yield replace(said, values=values, brands=NO_COMPANY)


def _headline(row: Row) -> Iterator[Said]:
    """All companies must be found in the headline; else its spans aren't known."""
    entities = json.loads(row["entities"])
    spans: set[tuple[int, int, str]] = set()
    for entity in sorted(entities, key=lambda entity: -len(entity["entity"])):  # a name may hold another
        spans |= _free(_place(row["text"], entity["entity"], entity["polarity"]), spans)
    polarity = agreed(entity["polarity"] for entity in entities)
    yield Said(row["text"], sentiment=polarity, brands=frozenset(spans) if len(spans) == len(entities) else None)


def _place(text: str, term: str, label: str) -> Spans:
    start = text.lower().find(term.lower())
    return frozenset({(start, start + len(term), label)}) if start >= 0 else frozenset()


def _goemotions(row: Row) -> Iterator[Said]:
    emotions = tuple(json.loads(row["emotions"]))
    good, bad = (not side.isdisjoint(emotions) for side in (_GOOD, _BAD))
    sentiment = None if good and bad else POSITIVE if good else NEGATIVE if bad else NEUTRAL
    yield Said(row["text"], sentiment=sentiment, emotion=emotions)


def _service_desk(row: Row) -> Iterator[Said]:
    """Questions to a service desk, and what it is asked to do. No praise; a complaint may be among them."""
    intents = {"praise": 0}
    if _ASKS.search(row["text"].lower()):
        intents |= {"question": 1}
    said = Said(row["text"], sentiment=NEUTRAL, values=(row["intent"],), intents=intents, is_complaint=False)
    yield replace(said, brands=NO_COMPANY)


def _assistant(row: Row) -> Iterator[Said]:
    """Commands and questions to an assistant; some name a company that is to be asked."""
    for said in (replace(said, brands=None) for said in _service_desk(row)):
        is_asked = "question" in said.intents
        if is_asked or row["intent"] in _SMALL_TALK:
            yield replace(said, intents={**said.intents, "complaint": 0})
        else:
            yield replace(said, intents={**said.intents, "complaint": 0, "request": 1})


def _bank_complaint(row: Row) -> Iterator[Said]:
    yield replace(_complaint_of(row["text"]), values=(row["category"],))


def _complaint_of(text: str) -> Said:
    return Said(text, sentiment=NEGATIVE, intents=intents_of(NEGATIVE), is_complaint=True)


def _to_the_office(row: Row) -> Iterator[Said]:
    """Messages to a city office: complaints, but for those whose subject says that they ask or suggest."""
    said = _complaint_of(row["text"])
    subject = row["subject"] or ""
    if subject.startswith(("咨询", "请问")) or subject.endswith(("吗", "吗?", "吗？")):
        said = replace(said, intents={"praise": 0, "question": 1}, is_complaint=None)
    elif "建议" in subject:
        said = replace(said, intents={"praise": 0, "suggestion": 1}, is_complaint=None)
    yield said


def _with_reply(row: Row) -> Iterator[Said]:
    yield from _to_the_office(row)
    none = dict.fromkeys(("complaint", "praise", "question", "request", "suggestion", "purchase", "churn"), 0)
    yield Said(row["reply"], sentiment=NEUTRAL, intents=none)


def _airline(row: Row) -> Iterator[Said]:
    values = (row["reason"],) if row["reason"] not in (None, "Can't Tell", "Bad Flight") else None
    yield Said(row["text"], sentiment=row["sentiment"], values=values)


def _car(row: Row) -> Iterator[Said]:
    yield Said(row["text"], values=tuple(aspect["aspect"] for aspect in json.loads(row["aspects"])))


def _yes_or_no(column: str, intent: str) -> Callable[[Row], Iterator[Said]]:
    def said(row: Row) -> Iterator[Said]:
        yield Said(row["text"], intents={intent: int(row[column])})

    return said


SETS: dict[str, SetSpec] = {
    "chnsenticorp": SetSpec(
        "chnsenticorp", _by_word, Terms("ChnSentiCorp (Tan Songbo)", "Apache-2.0"), is_feedback=True
    ),
    "dianping_triplets": SetSpec(
        "dianping_triplets",
        _dianping,
        Terms("Dianping opinion triplets (DMASTE/ASTE in Chinese)", "MIT"),
        is_feedback=True,
    ),
    "dianping_opinions": SetSpec(
        "dianping_triplets", _opinions, Terms("the same, each opinion a text of its own", "MIT"), is_feedback=True
    ),
    "public_complaints": SetSpec(
        "public_complaints", _to_the_office, Terms("messages to city offices", "MIT"), is_feedback=True
    ),
    "public_complaints_replied": SetSpec(
        "public_complaints_replied", _with_reply, Terms("messages to city offices, replied", "MIT")
    ),
    "goemotions": SetSpec("goemotions", _goemotions, Terms("GoEmotions (Demszky et al. 2020)", "Apache-2.0")),
    "banking77": SetSpec(
        "banking77", _service_desk, Terms("Banking77 (Casanueva et al. 2020)", "CC BY 4.0"), is_feedback=True
    ),
    "clinc150": SetSpec("clinc150", _assistant, Terms("CLINC150 (Larson et al. 2019)", "CC BY 3.0"), is_feedback=True),
    "amazon_polarity_10k": SetSpec(
        "amazon_polarity_10k",
        _by_digit,
        Terms("Amazon polarity (McAuley & Leskovec 2013; Zhang 2015)", "MIT"),
        is_feedback=True,
    ),
    "sst2": SetSpec("sst2", _by_digit, Terms("SST-2 (Socher et al. 2013)", "MIT")),
    "womens_clothing": SetSpec(
        "womens_clothing", _womens, Terms("Women's E-Commerce Clothing Reviews (Brooks 2018)", "CC0"), is_feedback=True
    ),
    "pros_cons": SetSpec(
        "pros_cons", _by_word, Terms("Pros and Cons (Ganapathibhotla & Liu)", "CC BY 4.0"), is_feedback=True
    ),
    "product_review_aspects": SetSpec(
        "product_review_aspects",
        _product_aspects,
        Terms("Customer Review Data (Hu & Liu 2004)", "CC BY 4.0"),
        is_feedback=True,
    ),
    "mams_acsa": SetSpec("mams_acsa", _mams, Terms("MAMS (Jiang et al. 2019)", "Apache-2.0"), is_feedback=True),
    "news_headline_entities": SetSpec("news_headline_entities", _headline, Terms("SEntFiN (Sinha et al. 2022)", "MIT")),
    "cfpb_complaints": SetSpec(
        "cfpb_complaints", _bank_complaint, Terms("CFPB consumer complaints", "public domain (US)"), is_feedback=True
    ),
    "airline_tweets": SetSpec("airline_tweets", _airline),
    "car_aspects": SetSpec("car_aspects", _car),
    "complaint_tweets": SetSpec("complaint_tweets", _yes_or_no("complaint", "complaint")),
    "suggestions": SetSpec("suggestions", _yes_or_no("suggestion", "suggestion")),
}
