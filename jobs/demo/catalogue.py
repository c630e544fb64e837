"""The made-up market of the demo corpus: three brands, their products and versions, 26 weeks, sources and regions.

All names are invented; any likeness to a real brand is accidental. Weeks count from 1 and start on a Monday (UTC).
"""

from dataclasses import dataclass
from datetime import date, timedelta

FIRST_DAY = date(2026, 1, 5)
NUM_WEEKS = 26
LANGS = ("zh", "en")
OWN_BRAND = "Tavelo"
BRANDS_ZH = {"Tavelo": "塔维", "Korvane": "科梵", "Brightwen": "莱温"}


@dataclass(frozen=True)
class Product:
    """One thing on sale; `short_zh` and `short_en` are how people call it, `releases` are (version, first week)."""

    name: str
    brand: str
    category: str
    short_zh: str
    short_en: str
    weight: float  # share of the corpus, up to a common factor
    releases: tuple[tuple[str, int], ...] = ()

    def short(self, lang: str) -> str:
        """What people who write `lang` call it."""
        return self.short_zh if lang == "zh" else self.short_en


PRODUCTS = (
    Product("Tavelo P5", "Tavelo", "phone", "P5", "P5", 27, (("3.0", 1), ("3.1", 7), ("3.2", 14), ("3.3", 23))),
    Product("Tavelo S2", "Tavelo", "robot", "S2扫地机", "S2", 13, (("1.4", 1), ("1.5", 12))),
    Product("Tavelo Breeze", "Tavelo", "climate", "Breeze冷暖机", "Breeze", 13),
    Product("Tavelo Home", "Tavelo", "app", "Home", "Home", 14, (("8.1", 1), ("8.2", 6), ("8.3", 13), ("8.4", 20))),
    Product("Korvane X9", "Korvane", "phone", "X9", "X9", 9, (("11.0", 1), ("11.1", 15))),
    Product("Korvane Glide", "Korvane", "robot", "Glide扫地机", "Glide", 5, (("2.0", 1),)),
    Product("Korvane Link", "Korvane", "app", "Link", "Link", 7, (("5.0", 1), ("5.1", 9), ("5.2", 18))),
    Product("Brightwen Vista", "Brightwen", "phone", "Vista", "Vista", 6, (("7.1", 1), ("7.2", 11))),
    Product("Brightwen Airo", "Brightwen", "climate", "Airo冷暖机", "Airo", 6),
)

# How often people of each kind of product write where; sources in RATED ask for stars.
SOURCES = {
    "phone": {"shop": 50, "survey": 17, "call_notes": 12, "social": 21},
    "robot": {"shop": 55, "survey": 18, "call_notes": 12, "social": 15},
    "climate": {"shop": 55, "survey": 15, "call_notes": 10, "social": 20},
    "app": {"app_store": 70, "survey": 10, "call_notes": 8, "social": 12},
}
RATED = frozenset({"app_store", "shop", "survey"})

REGIONS = {
    "zh": ("CN-East", "CN-South", "CN-North", "CN-East", "CN-West", "HK", "CN-South", "CN-East", "TW", "CN-North"),
    "en": ("US", "UK", "US", "CA", "US", "AU", "UK", "US", "SG", "US"),
}


def brand_name(brand: str, lang: str) -> str:
    """The brand as written by people who write `lang`."""
    return BRANDS_ZH[brand] if lang == "zh" else brand


def monday(week: int) -> date:
    """The first day of `week` (1 to 26)."""
    return FIRST_DAY + timedelta(weeks=week - 1)
