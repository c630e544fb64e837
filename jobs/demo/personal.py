"""Made-up personal data in the forms that masking has to find: well-formed, and nobody's.

US numbers are from the 555-01xx range kept for fiction, e-mail domains are reserved (RFC 2606), bank cards start with
test prefixes, ID numbers have birth dates from 1900 to 1909, and Chinese mobiles have the block 0000 in the middle.
"""

import random

KINDS = {"zh": ("mobile_cn", "mobile_cn", "email", "id_card_cn", "bank_card"), "en": ("phone_us", "email", "bank_card")}

_NAMES = ("li.wei", "chen_mo", "zhang88", "wang.fang", "j.smith", "amy.b", "tom-lee", "kate1990", "r.jones", "sunny")
_CARD_PREFIXES = ("411111", "424242", "555555", "620000")
_ID_AREAS = ("110101", "310104", "440305", "510107", "330106", "420106")
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)  # GB 11643-1999


def fake(rng: random.Random, kind: str) -> str:
    """A number or address of `kind`, one of `KINDS`."""
    return {
        "mobile_cn": _mobile_cn,
        "phone_us": _phone_us,
        "email": _email,
        "id_card_cn": _id_card_cn,
        "bank_card": _bank_card,
    }[kind](rng)


def _digits(rng: random.Random, num: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(num))


def _mobile_cn(rng: random.Random) -> str:
    parts = (f"1{rng.choice('3578')}{rng.choice('0123456789')}", "0000", _digits(rng, 4))
    return rng.choice(("", "", "", "-", " ")).join(parts)


def _phone_us(rng: random.Random) -> str:
    area = rng.choice(("202", "303", "415", "512", "617", "718", "972"))
    line = f"01{_digits(rng, 2)}"
    return rng.choice((f"({area}) 555-{line}", f"{area}-555-{line}", f"{area}.555.{line}", f"+1 {area} 555 {line}"))


def _email(rng: random.Random) -> str:
    return f"{rng.choice(_NAMES)}{rng.choice(('', '', _digits(rng, 2)))}@example.{rng.choice(('com', 'org'))}"


def _id_card_cn(rng: random.Random) -> str:
    born = f"190{rng.randrange(10)}{rng.randrange(1, 13):02d}{rng.randrange(1, 29):02d}"
    body = rng.choice(_ID_AREAS) + born + _digits(rng, 3)
    check = sum(int(digit) * weight for digit, weight in zip(body, _ID_WEIGHTS, strict=True)) % 11
    return body + "10X98765432"[check]


def _bank_card(rng: random.Random) -> str:
    body = rng.choice(_CARD_PREFIXES) + _digits(rng, 9)
    number = body + _luhn_digit(body)
    return rng.choice((number, " ".join(number[start : start + 4] for start in range(0, 16, 4))))


def _luhn_digit(body: str) -> str:
    doubled = (int(digit) * (2 - place % 2) for place, digit in enumerate(reversed(body)))
    return str(-sum(value - 9 * (value > 9) for value in doubled) % 10)
