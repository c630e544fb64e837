"""Composes one verbatim: what a customer feels about what, and in which words.

A verbatim has a shape (short, one or several opinions, for and against, a question, a suggestion, a planted fact). The
shape decides the true sentiment, the topics with their polarity and the stars; the text then follows from them, so that
the truth holds by construction. Given up: opinions of one text are drawn one by one and don't refer to each other.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from jobs.demo.catalogue import BRANDS_ZH, RATED, Product, brand_name
from jobs.demo.facts import Plan, delivery_weight
from jobs.demo.noise import roughen, traditional
from jobs.demo.phrases import phrases

_OPPOSITE = {"positive": "negative", "negative": "positive"}
_WEIGHTS = {"price": 1.1, "delivery": 1.0, "service": 0.9, "packaging": 0.45, "quality": 0.8, "rival": 0.3}
_LAST_HEATING_WEEK = 12
_TRADITIONAL_REGIONS = ("HK", "TW")
_STOPS = ("。", "！", "？", "～", ".", "!", "?", "…", "\n")

_SHAPES = ("short", "single", "several", "mixed", "long", "question", "suggestion")
_SHAPE_WEIGHTS = {
    "app_store": (26, 27, 25, 10, 3, 4, 5),
    "shop": (14, 20, 32, 16, 11, 4, 3),
    "survey": (8, 18, 25, 18, 9, 3, 19),
    "call_notes": (0, 32, 36, 10, 2, 20, 0),
    "social": (13, 33, 27, 9, 3, 11, 4),
}
# Per source: negative, neutral, positive.
_SENTIMENT_WEIGHTS = {
    "app_store": (42, 8, 50),
    "shop": (30, 9, 61),
    "survey": (34, 12, 54),
    "call_notes": (74, 0, 26),
    "social": (43, 8, 49),
}
_SENTIMENTS = ("negative", "neutral", "positive")
_STARS = {"negative": (1, 1, 1, 2, 2), "neutral": (3,), "positive": (5, 5, 5, 4)}


@dataclass(frozen=True)
class Situation:
    """Who writes about what, where and when; `week` is 1 to 26."""

    lang: str
    source: str
    region: str
    product: Product
    version: str | None
    week: int


@dataclass(frozen=True)
class Verbatim:
    """A text and the truth about it; `topics` are (topic, polarity), `rating` is 1 to 5 where the source asks."""

    text: str
    sentiment: str
    rating: int | None
    topics: tuple[tuple[str, str], ...]
    intent: str  # none, question, suggestion, churn, recommend


@dataclass
class _Draft:
    """A verbatim before it is typed: clauses without final punctuation, and the truth that they tell."""

    sentiment: str
    clauses: list[str]
    stars: tuple[int, ...]
    topics: list[tuple[str, str]] = field(default_factory=list)
    intent: str = "none"


class _Customer:
    """One customer in one situation, who has words for everything."""

    def __init__(self, rng: random.Random, situation: Situation, rival: str | None) -> None:
        lang, brand = situation.lang, situation.product.brand
        rival = rival or rng.choice([other for other in BRANDS_ZH if other != brand])
        in_latin = lang == "zh" and rng.random() < 0.25
        self.rng = rng
        self.at = situation
        self.book = phrases(lang)
        self.kind = "app" if situation.product.category == "app" else "device"
        self.names = {
            "brand": brand_name(brand, "en" if in_latin else lang),
            "rival": brand_name(rival, "en" if in_latin else lang),
            "product": situation.product.short(lang),
            "dur": rng.choice(self.book.lists["slots.dur"]),  # one for all that this customer tells
            "order": f"{rng.randrange(10**7, 10**8)}",
        }

    def say(self, *keys: str) -> str:
        return self.book.say(self.rng, *keys, **self.names)

    def say_fitting(self, key: str) -> str:
        """From the lists `any` and `device` or `app` under `key`: nobody sends an app back."""
        return self.say(*(f"{key}.{kind}" for kind in ("any", self.kind) if f"{key}.{kind}" in self.book.lists))

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def opinions(self, polarity: str, num: int, taken: list[tuple[str, str]]) -> list[str]:
        """At most `num` clauses on topics that aren't in `taken`, which grows by them."""
        clauses = []
        for _ in range(num):
            done = {topic for topic, _ in taken}
            topics = [topic for topic in self._topics() if topic not in done]
            if not topics:
                break
            topic = self.rng.choices(topics, [self._weight(topic, polarity) for topic in topics])[0]
            taken.append((topic, polarity))
            clauses.append(self.say(f"{self._topics()[topic]}.{topic}.{polarity}"))
        return clauses

    def opener(self, share: float) -> list[str]:
        return [self.say(f"openers.{self.kind}")] if self.chance(share) else []

    def closing(self, sentiment: str, share: float) -> tuple[list[str], str]:
        """A closing clause or none, and the intent that it shows."""
        if not self.chance(share):
            return [], "none"
        if sentiment == "positive":
            key, intent = self.rng.choice((("recommend", "recommend"), ("praise", "none")))
        else:
            key, intent = self.rng.choice((("churn", "churn"), ("fix", "none"), ("vent", "none")))
        return [self.say_fitting(f"closings.{key}")], intent

    def _topics(self) -> dict[str, str]:
        return _topics_of(self.at.lang, self.at.product.category)

    def _weight(self, topic: str, polarity: str) -> float:
        if topic == "delivery":
            return delivery_weight(self.at.product.brand, self.at.week, polarity)
        if topic in ("heating", "airflow"):
            return 2.0 * ((topic == "heating") == (self.at.week <= _LAST_HEATING_WEEK))
        return _WEIGHTS.get(topic, 1.0)


@cache
def _topics_of(lang: str, category: str) -> dict[str, str]:
    """Where the opinions on each topic of `category` stand in the word lists; all but apps are shipped goods."""
    prefixes = ("aspects.service" if category == "app" else "aspects.goods", f"aspects.{category}")
    return {topic: prefix for prefix in prefixes for topic in phrases(lang).below(prefix)}


def compose(rng: random.Random, situation: Situation, plan: Plan | None = None) -> Verbatim:
    """One verbatim of `situation`; with a `plan` it is about that planted fact."""
    customer = _Customer(rng, situation, plan.rival if plan else None)
    if plan:
        return _typed(customer, _planted(customer, plan))
    shape = rng.choices(_SHAPES, _SHAPE_WEIGHTS[situation.source])[0]
    return _typed(customer, _DRAFTS[shape](customer))


def compose_opinion(rng: random.Random, situation: Situation) -> Verbatim:
    """A verbatim with several opinions of one polarity: long enough to be worth pasting elsewhere."""
    customer = _Customer(rng, situation, None)
    return _typed(customer, _opinions(customer, rng.choice(("positive", "negative")), 3))


def compose_letter(rng: random.Random, situation: Situation, min_chars: int) -> Verbatim:
    """A complaint of at least `min_chars` characters, by somebody who repeats themself."""
    customer = _Customer(rng, situation, None)
    topics: list[tuple[str, str]] = []
    clauses: list[str] = []
    while sum(map(len, clauses)) < min_chars:
        round_topics: list[tuple[str, str]] = []
        clauses += (
            customer.opener(1) + customer.opinions("negative", 6, round_topics) + customer.closing("negative", 1)[0]
        )
        topics += round_topics
    return _typed(customer, _Draft("negative", clauses, (1,), list(dict.fromkeys(topics))))


def _short(customer: _Customer) -> _Draft:
    sentiment = _sentiment(customer)
    return _Draft(sentiment, [customer.say_fitting(f"short.{sentiment}")], _STARS[sentiment])


def _single(customer: _Customer) -> _Draft:
    return _opinions(customer, _sentiment(customer), 1)


def _several(customer: _Customer) -> _Draft:
    return _opinions(customer, _sentiment(customer), customer.rng.choice((2, 2, 3, 3, 4)))


def _long(customer: _Customer) -> _Draft:
    return _opinions(customer, _sentiment(customer), customer.rng.choice((4, 4, 5)))


def _opinions(customer: _Customer, sentiment: str, num: int) -> _Draft:
    """`num` opinions of one polarity; a long text may admit one of the other; neutral ones are plain statements."""
    if sentiment == "neutral":
        return _Draft(
            sentiment, [*customer.opener(0.2), customer.say(f"statements.{customer.kind}")], _STARS[sentiment]
        )
    topics: list[tuple[str, str]] = []
    clauses = customer.opener(0.15 if num == 1 else 0.5) + customer.opinions(sentiment, num, topics)
    if num > 3 and customer.chance(0.4):
        side = "downside" if sentiment == "positive" else "upside"
        clauses += [customer.say(f"asides.{side}") + customer.opinions(_OPPOSITE[sentiment], 1, topics)[0]]
    closing, intent = customer.closing(sentiment, 0.3 if num == 1 else 0.5)
    return _Draft(sentiment, clauses + closing, _STARS[sentiment], topics, intent)


def _mixed(customer: _Customer) -> _Draft:
    """For and against in one sentence, then the verdict, which is the sentiment: 4, 3 or 2 stars."""
    first = customer.rng.choice(("positive", "positive", "negative"))
    side = "downside" if first == "positive" else "upside"
    topics: list[tuple[str, str]] = []
    before = customer.opinions(first, customer.rng.choice((1, 1, 2)), topics)
    after = customer.opinions(_OPPOSITE[first], 1, topics)[0]
    but = customer.say(f"but.{side}")
    turn = f"，{but}{after}" if customer.at.lang == "zh" else f"{but}{after}"
    sentiment = customer.rng.choices(_SENTIMENTS, (35, 25, 40))[0]
    clauses = [*customer.opener(0.25), *before[:-1], before[-1] + turn, customer.say_fitting(f"verdicts.{sentiment}")]
    return _Draft(sentiment, clauses, ({"negative": 2, "neutral": 3, "positive": 4}[sentiment],), topics)


def _question(customer: _Customer) -> _Draft:
    clauses = [customer.say(f"questions.{customer.kind}")]
    if customer.chance(0.35):
        clauses.append(customer.say("thanks"))
    return _Draft("neutral", clauses, _STARS["neutral"], intent="question")


def _suggestion(customer: _Customer) -> _Draft:
    keys = {f"suggestions.{customer.kind}", f"suggestions.{customer.at.product.category}"}
    clauses = [*customer.opener(0.25), customer.say(*sorted(keys))]
    return _Draft("neutral", clauses, _STARS["neutral"], intent="suggestion")


def _planted(customer: _Customer, plan: Plan) -> _Draft:
    """What people say about the planted fact, among what they say anyway."""
    topics = [(plan.topic, plan.polarity)]
    told = [customer.say(f"facts.{plan.id}")]
    if plan.polarity == "neutral":
        asks = "?" in told[0] or "？" in told[0]
        thanks = [customer.say("thanks")] if asks and customer.chance(0.4) else []
        return _Draft("neutral", told + thanks, _STARS["neutral"], topics, "question" if asks else "none")
    taken = [*topics, ("battery", "negative"), ("rival", "negative")]  # the fact has said it
    num_known = len(taken)
    more = customer.opinions(plan.polarity, 1, taken) if customer.chance(0.3) else []
    closing, intent = customer.closing(plan.polarity, 0.5)
    stars = _STARS[plan.polarity]
    return _Draft(
        plan.polarity, customer.opener(0.2) + told + more + closing, stars, topics + taken[num_known:], intent
    )


_DRAFTS: dict[str, Callable[[_Customer], _Draft]] = {
    "short": _short,
    "single": _single,
    "several": _several,
    "mixed": _mixed,
    "long": _long,
    "question": _question,
    "suggestion": _suggestion,
}


def _sentiment(customer: _Customer) -> str:
    return customer.rng.choices(_SENTIMENTS, _SENTIMENT_WEIGHTS[customer.at.source])[0]


def _typed(customer: _Customer, draft: _Draft) -> Verbatim:
    """The draft as it is found in its source, with the stars that the source asks for."""
    rng, at = customer.rng, customer.at
    clauses = [clause.strip() for clause in draft.clauses]  # an alternative left empty leaves a space behind
    text = _joined_zh(rng, clauses) if at.lang == "zh" else _joined_en(rng, clauses)
    if at.source == "call_notes":
        text = _noted(customer, text, draft.sentiment)
    if at.source == "social" and customer.chance(0.35):
        kind = "question" if draft.intent in ("question", "suggestion") else "before"
        text = customer.say(f"social.{kind}") + text
    text = roughen(rng, customer.book, text, draft.sentiment, at.source)
    if at.region in _TRADITIONAL_REGIONS and customer.chance(0.4):
        text = traditional(text)
    rating = rng.choice(draft.stars) if at.source in RATED else None
    return Verbatim(text, draft.sentiment, rating, tuple(draft.topics), draft.intent)


def _joined_zh(rng: random.Random, clauses: list[str]) -> str:
    """Clauses in one writer's punctuation: most use commas and full stops, some spaces only, some new lines."""
    gaps = rng.choice(("，，。", "，，。", "，，。", "，", "。", "。", " ", "；", "\n"))
    text = ""
    for clause in clauses[:-1]:
        text += clause if clause.endswith(_STOPS) else clause + rng.choice(gaps)
    last = clauses[-1]
    return text + (
        last if last.endswith(_STOPS) else last + rng.choice(("。", "。", "。", "", "", "！", "～", "。。。"))
    )


def _joined_en(rng: random.Random, clauses: list[str]) -> str:
    """Clauses in one writer's punctuation; a new sentence starts with a capital, a comma splice doesn't."""
    gaps = rng.choice(((". ",), (". ",), (". ",), (". ", "! "), (", ", ". "), (", ",), ("... ",), ("\n",)))
    text = ""
    for place, clause in enumerate(clauses):
        if place:
            text += " " if text.endswith(_STOPS) else rng.choice(gaps)
        starts = not text or text.rstrip(" ").endswith(_STOPS)
        text += clause[0].upper() + clause[1:] if starts else clause
    return text if text.endswith(_STOPS) else text + rng.choice((".", ".", ".", "", "", "!", "..."))


def _noted(customer: _Customer, said: str, sentiment: str) -> str:
    """The note an agent takes of a call: what the caller said, then what was done."""
    quoted = customer.book.say(customer.rng, "call.said", said=said.replace("\n", " "), **customer.names)
    action = customer.say_fitting(f"call.{sentiment}")
    return f"{quoted}，{action}。" if customer.at.lang == "zh" else f"{quoted} {action}."
