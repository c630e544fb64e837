"""What is planted in the demo corpus, and the form in which `facts.json` tells it.

`facts.json`:

=====================  ===============================================================================================
seed, num_lines        what the corpus was made with; lines in all files together, broken ones included
rows_valid             lines that a careful reader keeps; `truth.parquet` has one row for each
rows_rejected          the others; `num_lines = rows_valid + rows_rejected`
broken_rows            rejected rows per reason: null_id, duplicate_id (the second of two equal lines that follow each
                       other), null_text, empty_text (empty or white space), bad_json, invalid_utf8, text_not_string
personal_data          valid rows per kind: mobile_cn, phone_us, email, id_card_cn, bank_card; one per row at most
hostile                valid rows per kind: formula, script, template, sql, rtl_override, zero_width
num_over_20000_chars   valid rows whose text is longer than that
num_with_emoji         valid rows with an emoji of the word lists
num_with_tag           valid rows with a Weibo tag such as [doge]
num_campaign_texts     different texts behind the fact `copy_paste`
languages, sentiments  valid rows per language and per true sentiment
facts                  one entry a planted fact:
  id, kind             name, and one of defect, rival_price_cut, improvement, seasonal_demand, duplicates
  brand, product       whom it concerns; null for all
  version, rival       the only product version it happens in; the rival's brand; else null
  first_week           Monday of the first week, ISO date; last_week is the Monday of the last
  num_verbatims        valid rows that carry it (their ids: column `facts` of truth.parquet)
  measure, direction   what moves (mentions or sentiment) and how after first_week: up, down, none
  terms_zh, terms_en   words people use for it; compare without case (Chinese ones occur in traditional script too)
=====================  ===============================================================================================
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from jobs.demo.catalogue import NUM_WEEKS, OWN_BRAND, Product, monday


@dataclass(frozen=True)
class Plan:
    """One fact to plant: in `week`, a share of the verbatims in its scope are about it."""

    id: str
    kind: str
    measure: str
    direction: str
    terms_zh: tuple[str, ...]
    terms_en: tuple[str, ...]
    topic: str = ""
    polarity: str = ""  # of what people say about it; empty if it can be either
    brand: str | None = OWN_BRAND
    product: str | None = None
    categories: tuple[str, ...] = ("phone", "robot", "climate")
    version: str | None = None
    rival: str | None = None
    first_week: int = 1
    shares: tuple[float, ...] = ()  # of the scope, week by week from first_week

    def share(self, product: Product, version: str | None, week: int) -> float:
        """The share of verbatims on `product` in `version` and `week` that are about this fact."""
        in_scope = (
            product.brand == self.brand
            and self.product in (None, product.name)
            and product.category in self.categories
            and self.version in (None, version)
        )
        since = week - self.first_week
        return self.shares[since] if in_scope and 0 <= since < len(self.shares) else 0.0


PLANS = (
    Plan(
        id="battery_overheat",
        kind="defect",
        measure="mentions",
        direction="up",
        terms_zh=("发烫", "烫手", "过热", "烫得", "温度过高"),
        terms_en=("overheat", "burning hot", "too hot to hold", "dangerously hot", "temperature warnings"),
        topic="heat",
        polarity="negative",
        product="Tavelo P5",
        version="3.2",
        first_week=14,
        shares=(0.28, 0.32, 0.36, 0.38) + (0.4,) * 9,
    ),
    Plan(
        id="rival_price_cut",
        kind="rival_price_cut",
        measure="mentions",
        direction="up",
        terms_zh=("科梵", "降价", "便宜", "买贵"),
        terms_en=("Korvane", "cheaper", "price cut", "price drop", "overpriced", "overpaid"),
        topic="price",
        polarity="negative",
        product="Tavelo P5",
        rival="Korvane",
        first_week=20,
        shares=(0.24, 0.22, 0.18, 0.14, 0.11, 0.09, 0.08),
    ),
    Plan(
        id="cny_gifts",
        kind="seasonal_demand",
        measure="mentions",
        direction="up",
        terms_zh=("年货", "送礼", "礼盒", "春节", "过年", "除夕"),
        terms_en=("Chinese New Year", "Lunar New Year", "gift"),
        topic="demand",
        polarity="neutral",
        first_week=2,
        shares=(0.04, 0.08, 0.12, 0.16, 0.16, 0.04),
    ),
    Plan(
        id="heater_demand",
        kind="seasonal_demand",
        measure="mentions",
        direction="down",
        terms_zh=("暖风机", "取暖器"),
        terms_en=("heater",),
        topic="demand",
        polarity="neutral",
        categories=("climate",),
        first_week=1,
        shares=(0.28, 0.3, 0.26, 0.22, 0.18, 0.14, 0.1, 0.06, 0.03),
    ),
    Plan(
        id="fan_demand",
        kind="seasonal_demand",
        measure="mentions",
        direction="up",
        terms_zh=("风扇", "落地扇"),
        terms_en=("fan",),
        topic="demand",
        polarity="neutral",
        categories=("climate",),
        first_week=18,
        shares=(0.06, 0.1, 0.15, 0.2, 0.25, 0.3, 0.33, 0.35, 0.36),
    ),
)

DELIVERY = Plan(
    id="delivery_faster",
    kind="improvement",
    measure="sentiment",
    direction="up",
    terms_zh=("物流", "快递", "发货", "送货", "到货"),
    terms_en=("delivery", "shipping", "courier", "driver", "arrived"),
    topic="delivery",
)
COPY_PASTE = Plan(
    id="copy_paste",
    kind="duplicates",
    measure="mentions",
    direction="none",
    terms_zh=(),
    terms_en=(),
    brand=None,
)


def draw(rng: random.Random, product: Product, version: str | None, week: int) -> Plan | None:
    """The fact that a new verbatim is about, if any."""
    return next((plan for plan in PLANS if rng.random() < plan.share(product, version, week)), None)


def delivery_weight(brand: str, week: int, polarity: str) -> float:
    """How readily people bring up delivery with `polarity`, other topics being 1: our own gets faster week by week."""
    if brand != OWN_BRAND:
        return 1.0
    done = (week - 1) / (NUM_WEEKS - 1)
    return 2.4 - 2.1 * done if polarity == "negative" else 0.3 + 1.9 * done


@dataclass(frozen=True)
class PlantedFact:
    """One entry of `facts` in `facts.json`; the module's table explains the fields."""

    id: str
    kind: str
    brand: str | None
    product: str | None
    version: str | None
    rival: str | None
    first_week: str
    last_week: str
    num_verbatims: int
    measure: str
    direction: str
    terms_zh: tuple[str, ...]
    terms_en: tuple[str, ...]

    @classmethod
    def found(cls, plan: Plan, num_verbatims: int) -> "PlantedFact":
        """The entry for `plan`, of which the corpus has `num_verbatims`."""
        last_week = plan.first_week + len(plan.shares) - 1 if plan.shares else NUM_WEEKS
        return cls(
            id=plan.id,
            kind=plan.kind,
            brand=plan.brand,
            product=plan.product,
            version=plan.version,
            rival=plan.rival,
            first_week=monday(plan.first_week).isoformat(),
            last_week=monday(last_week).isoformat(),
            num_verbatims=num_verbatims,
            measure=plan.measure,
            direction=plan.direction,
            terms_zh=plan.terms_zh,
            terms_en=plan.terms_en,
        )


@dataclass(frozen=True)
class Facts:
    """All of `facts.json`; the module's table explains the fields."""

    seed: int
    num_lines: int
    rows_valid: int
    rows_rejected: int
    broken_rows: Mapping[str, int]
    personal_data: Mapping[str, int]
    hostile: Mapping[str, int]
    num_over_20000_chars: int
    num_with_emoji: int
    num_with_tag: int
    num_campaign_texts: int
    languages: Mapping[str, int]
    sentiments: Mapping[str, int]
    facts: tuple[PlantedFact, ...]
