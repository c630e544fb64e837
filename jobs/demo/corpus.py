"""Writes the demo corpus: made-up feedback in Chinese and English with planted facts, and the truth about it beside it.

    python -m jobs.demo.corpus OUT_DIR [--rows 20000] [--seed 7]

OUT_DIR/corpus/source=<source>/<month>.jsonl   JSON Lines, gzip for two of the five sources. Fields: id, text,
                                               created_at (UTC), product, brand, product_version, customer_id, region,
                                               and rating where the source asks for stars.
OUT_DIR/facts.json                             what is planted and how often; described in jobs/demo/facts.py.
OUT_DIR/truth.parquet                          per valid row: id, lang, sentiment, topics with polarity, intent, facts,
                                               personal_data, hostile. A comparison is the topic `rival`, positive
                                               where the product itself comes off better.

The same arguments give the same bytes, and a file whose bytes stand already isn't touched: a second run finds an
unchanged corpus. 20,000 rows take about 3 s. Given up: memory for very large corpora, as all rows are held at once.
"""

import argparse
import gzip
import json
import logging
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.demo.catalogue import FIRST_DAY, LANGS, NUM_WEEKS, OWN_BRAND, PRODUCTS, REGIONS, SOURCES, Product
from jobs.demo.facts import COPY_PASTE, DELIVERY, PLANS, Facts, PlantedFact, draw
from jobs.demo.personal import KINDS, fake
from jobs.demo.phrases import phrases
from jobs.demo.verbatims import Situation, Verbatim, compose, compose_letter, compose_opinion

MIN_ROWS = 500

_log = logging.getLogger(__name__)

_BROKEN_SHARE = 0.004
_COPY_SHARE = 0.035
_PERSONAL_SHARE = 0.02
_COPIES_OF_ONE = 30
_LETTER_CHARS = 20_500
_GZIPPED = ("survey", "call_notes")

# Reasons for which a row must be rejected; duplicate_id is made by writing a valid line twice.
_BREAKABLE = ("null_id", "null_text", "empty_text", "text_not_string", "bad_json", "invalid_utf8")
_EMPTY_TEXTS = ("", "   ", "\n\t", "\u3000\u3000")
_NO_STRINGS = (12345, True, ["不错", "good"], {"text": "ok"})

_HOSTILE = {
    "formula": "=cmd|' /C calc'!A0 ",
    "script": "<script>alert(1)</script>",
    "template": "{{7*7}} ",
    "sql": "'; DROP TABLE reviews; -- ",
    "rtl_override": "\u202e",
    "zero_width": "\u200b\u200d\ufeff",
}
_MOODS = ("positive", "neutral", "negative")
_TAG = re.compile(r"\[[A-Za-z\u4e00-\u9fff]{1,5}\]")


@dataclass(frozen=True)
class _Row:
    """One line to be: the verbatim, where it stands, and what is special about it."""

    at: Situation
    created_at: datetime
    customer: int
    verbatim: Verbatim
    facts: tuple[str, ...] = ()
    personal_data: str | None = None
    hostile: str | None = None
    broken: str | None = None
    id: str = ""


def write_corpus(out_dir: Path, num_rows: int, seed: int) -> Facts:
    """Write the corpus, its facts and its truth under `out_dir`; `num_rows` counts lines, broken ones included.

    Raises `ValueError` for fewer rows than the planted facts need.
    """
    if num_rows < MIN_ROWS:
        raise ValueError(f"num_rows is {num_rows}; the planted facts need at least {MIN_ROWS}")
    rng = random.Random(seed)  # noqa: S311  seeded on purpose, nothing secret
    num_twice = max(1, round(num_rows * _BROKEN_SHARE / 7))
    rows = _numbered(_all_rows(rng, num_rows - num_twice))
    valid = [row for row in rows if row.broken is None]
    twice = frozenset(row.id for row in rng.sample(valid, num_twice))

    files = {out_dir / "corpus" / name: lines for name, lines in _files(rng, rows, twice).items()}
    for stale in set((out_dir / "corpus").glob("source=*/*.jsonl*")) - set(files):
        stale.unlink()
    for path, lines in files.items():
        content = b"".join(lines)
        _put(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)

    facts = _facts(seed, rows, num_twice)
    _put(out_dir / "facts.json", json.dumps(asdict(facts), ensure_ascii=False, indent=2).encode() + b"\n")
    _put(out_dir / "truth.parquet", _truth(valid))
    return facts


def _all_rows(rng: random.Random, num_rows: int) -> list[_Row]:
    """All rows in no order: ordinary and planted, then copies of some, then what is added to some, then the broken."""
    num_broken = len(_BREAKABLE) * max(1, round(num_rows * _BROKEN_SHARE / 7))
    num_copies = round(num_rows * _COPY_SHARE)
    num_customers = num_rows * 11 // 20
    rows = [_new_row(rng, num_customers) for _ in range(num_rows - num_broken - num_copies - 1)]
    _add_personal_data(rng, rows, num_rows)
    _add_hostile_text(rng, rows, num_rows)
    rows += _copies(rng, num_copies, num_customers)
    rows.append(_letter(rng, num_customers))
    for place in range(num_broken):
        rows.append(replace(_new_row(rng, num_customers), broken=_BREAKABLE[place % len(_BREAKABLE)]))
    return rows


def _new_row(rng: random.Random, num_customers: int) -> _Row:
    customer = rng.randrange(num_customers)
    created_at = _moment(rng, rng.randrange(NUM_WEEKS) + 1)
    at = _situation(rng, _product(rng), customer, created_at)
    plan = draw(rng, at.product, at.version, at.week)
    verbatim = compose(rng, at, plan)
    facts = (plan.id,) if plan else ()
    return _Row(at, created_at, customer, verbatim, facts + _delivery(at.product, verbatim))


def _product(rng: random.Random) -> Product:
    return rng.choices(PRODUCTS, [product.weight for product in PRODUCTS])[0]


def _region(customer: int) -> str:
    regions = REGIONS[LANGS[customer % 2]]
    return regions[customer // 2 % len(regions)]


def _moment(rng: random.Random, week: int) -> datetime:
    """Some second of `week`, in the late afternoon (UTC) more often than at night."""
    midnight = datetime.combine(FIRST_DAY, time(), UTC)
    return midnight + timedelta(weeks=week - 1, days=rng.randrange(7), seconds=int(rng.triangular(0, 86_399, 57_600)))


def _situation(rng: random.Random, product: Product, customer: int, created_at: datetime) -> Situation:
    """Even customers write Chinese, odd ones English; a customer's region never changes."""
    week = (created_at.date() - FIRST_DAY).days // 7 + 1
    return Situation(
        lang=LANGS[customer % 2],
        source=rng.choices(list(SOURCES[product.category]), list(SOURCES[product.category].values()))[0],
        region=_region(customer),
        product=product,
        version=_version(rng, product, week),
        week=week,
    )


def _version(rng: random.Random, product: Product, week: int) -> str | None:
    """The version in use: a third take a new one in its first week, nine in ten after a month or so."""
    out = [(version, week - since) for version, since in product.releases if since <= week]
    for version, age in reversed(out[1:]):
        if rng.random() < min(0.9, 0.35 + 0.15 * age):
            return version
    return out[0][0] if out else None


def _add_personal_data(rng: random.Random, rows: list[_Row], num_rows: int) -> None:
    for place in rng.sample(range(len(rows)), round(num_rows * _PERSONAL_SHARE)):
        row = rows[place]
        kind = rng.choice(KINDS[row.at.lang])
        book = phrases(row.at.lang)
        sentence = book.say(rng, f"personal.{kind}", number=fake(rng, kind))
        if row.at.lang == "zh":
            gap = "" if row.verbatim.text.endswith(("。", "！", "？", "～")) else "，"
        else:
            gap = " " if row.verbatim.text.endswith((".", "!", "?")) else ". "
            sentence = sentence[0].upper() + sentence[1:]
        text = row.verbatim.text + gap + sentence
        rows[place] = replace(row, verbatim=replace(row.verbatim, text=text), personal_data=kind)


def _add_hostile_text(rng: random.Random, rows: list[_Row], num_rows: int) -> None:
    """Put each hostile string before the text of some rows that are otherwise plain."""
    plain = [place for place, row in enumerate(rows) if row.personal_data is None]
    num_each = max(1, round(num_rows / 6_000))
    places = iter(rng.sample(plain, num_each * len(_HOSTILE)))
    for kind, start in _HOSTILE.items():
        for _ in range(num_each):
            place = next(places)
            row = rows[place]
            verbatim = replace(row.verbatim, text=start + row.verbatim.text)
            rows[place] = replace(row, verbatim=verbatim, hostile=kind)


def _copies(rng: random.Random, num_copies: int, num_customers: int) -> Iterator[_Row]:
    """Campaigns: one text in one source under many names within a fortnight."""
    num_texts = max(3, num_copies // _COPIES_OF_ONE)
    for place in range(num_texts):
        week = rng.randrange(1, NUM_WEEKS)
        at = _situation(rng, _product(rng), rng.randrange(num_customers), _moment(rng, week))
        at = replace(at, source=_campaign_source(at.product, place))
        verbatim = compose_opinion(rng, at)
        facts = (COPY_PASTE.id, *_delivery(at.product, verbatim))
        for _ in range(num_copies // num_texts + (place < num_copies % num_texts)):
            customer = rng.randrange(num_customers // 2) * 2 + LANGS.index(at.lang)
            yield _Row(at, _moment(rng, week + rng.randrange(2)), customer, verbatim, facts)


def _campaign_source(product: Product, place: int) -> str:
    if place % 2:
        return "social"
    return "app_store" if product.category == "app" else "shop"


def _letter(rng: random.Random, num_customers: int) -> _Row:
    """One customer's endless complaint, longer than any model reads."""
    customer = rng.randrange(num_customers // 2) * 2 + 1
    created_at = _moment(rng, NUM_WEEKS // 2)
    at = replace(_situation(rng, _product(rng), customer, created_at), source="survey")
    verbatim = compose_letter(rng, at, _LETTER_CHARS)
    return _Row(at, created_at, customer, verbatim, _delivery(at.product, verbatim))


def _delivery(product: Product, verbatim: Verbatim) -> tuple[str, ...]:
    spoken_of = any(topic == DELIVERY.topic for topic, _ in verbatim.topics)
    return (DELIVERY.id,) if product.brand == OWN_BRAND and spoken_of else ()


def _numbered(rows: Iterable[_Row]) -> list[_Row]:
    """The rows in the order of time, with ids that count up."""
    ordered = sorted(rows, key=lambda row: (row.created_at, row.customer))
    return [replace(row, id=f"{row.at.source}-{number:06d}") for number, row in enumerate(ordered, 1)]


def _files(rng: random.Random, rows: Iterable[_Row], twice: frozenset[str]) -> dict[str, list[bytes]]:
    """The lines of each file by its name below `corpus/`."""
    files: dict[str, list[bytes]] = {}
    for row in rows:
        suffix = ".jsonl.gz" if row.at.source in _GZIPPED else ".jsonl"
        lines = files.setdefault(f"source={row.at.source}/{row.created_at:%Y-%m}{suffix}", [])
        lines += [_line(rng, row)] * (2 if row.id in twice else 1)
    return files


def _line(rng: random.Random, row: _Row) -> bytes:
    """The row as one JSON line; a row that is broken is broken here."""
    record: dict[str, object] = {
        "id": row.id,
        "text": row.verbatim.text,
        "created_at": f"{row.created_at:%Y-%m-%dT%H:%M:%SZ}",
        "product": row.at.product.name,
        "brand": row.at.product.brand,
        "product_version": row.at.version,
        "customer_id": f"c{row.customer:06d}",
        "region": _region(row.customer),
    }
    if row.verbatim.rating is not None:
        record["rating"] = row.verbatim.rating
    if row.broken == "null_id":
        record["id"] = None
    if row.broken == "null_text":
        record["text"] = None
    if row.broken == "empty_text":
        record["text"] = rng.choice(_EMPTY_TEXTS)
    if row.broken == "text_not_string":
        record["text"] = rng.choice(_NO_STRINGS)
    line = json.dumps(record, ensure_ascii=False)
    if row.broken == "bad_json":
        line = rng.choice((line[: len(line) // 2], line.replace('": "', '": ', 1)))
    encoded = line.encode()
    if row.broken == "invalid_utf8":
        encoded = encoded.replace(b'"text": "', b'"text": "\xff\xc3\x28', 1)
    return encoded + b"\n"


def _facts(seed: int, rows: list[_Row], num_twice: int) -> Facts:
    valid = [row for row in rows if row.broken is None]
    broken = Counter(row.broken for row in rows if row.broken is not None) + Counter(duplicate_id=num_twice)
    planted = Counter(fact for row in valid for fact in row.facts)
    emoji = tuple({face for lang in LANGS for mood in _MOODS for face in phrases(lang).lists[f"emoji.{mood}"]})
    texts = [row.verbatim.text for row in valid]
    return Facts(
        seed=seed,
        num_lines=len(rows) + num_twice,
        rows_valid=len(valid),
        rows_rejected=broken.total(),
        broken_rows=_sorted(broken),
        personal_data=_sorted(Counter(row.personal_data for row in valid if row.personal_data is not None)),
        hostile=_sorted(Counter(row.hostile for row in valid if row.hostile is not None)),
        num_over_20000_chars=sum(len(text) > 20_000 for text in texts),
        num_with_emoji=sum(any(face in text for face in emoji) for text in texts),
        num_with_tag=sum(_TAG.search(text) is not None for text in texts),
        num_campaign_texts=len({row.verbatim.text for row in valid if COPY_PASTE.id in row.facts}),
        languages=_sorted(Counter(row.at.lang for row in valid)),
        sentiments=_sorted(Counter(row.verbatim.sentiment for row in valid)),
        facts=tuple(PlantedFact.found(plan, planted[plan.id]) for plan in (*PLANS, DELIVERY, COPY_PASTE)),
    )


def _sorted(counts: Counter[str]) -> Mapping[str, int]:
    return dict(sorted(counts.items()))


def _truth(valid: list[_Row]) -> bytes:
    """The truth as Parquet, one row for each valid row; columns as the head of this module says."""
    topic = pa.struct([("topic", pa.string()), ("polarity", pa.string())])
    columns = {
        "id": pa.array([row.id for row in valid], pa.string()),
        "lang": pa.array([row.at.lang for row in valid], pa.string()),
        "sentiment": pa.array([row.verbatim.sentiment for row in valid], pa.string()),
        "topics": pa.array(
            [[{"topic": name, "polarity": polarity} for name, polarity in row.verbatim.topics] for row in valid],
            pa.list_(topic),
        ),
        "intent": pa.array([row.verbatim.intent for row in valid], pa.string()),
        "facts": pa.array([list(row.facts) for row in valid], pa.list_(pa.string())),
        "personal_data": pa.array([row.personal_data for row in valid], pa.string()),
        "hostile": pa.array([row.hostile for row in valid], pa.string()),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _put(path: Path, content: bytes) -> None:
    """Write `content` unless it stands there already: an untouched file keeps its time, and with it its scores."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(prog="python -m jobs.demo.corpus", description=__doc__.splitlines()[0])
    parser.add_argument("out_dir", type=Path, help="folder to write corpus/, facts.json and truth.parquet under")
    parser.add_argument("--rows", type=int, default=20_000, help="lines in all (default %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="same seed, same bytes (default %(default)s)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    facts = write_corpus(arguments.out_dir, arguments.rows, arguments.seed)
    _log.info("%d lines in %s, %d of them broken", facts.num_lines, arguments.out_dir / "corpus", facts.rows_rejected)
    for fact in facts.facts:
        _log.info("planted %s from %s: %d verbatims", fact.id, fact.first_week, fact.num_verbatims)


if __name__ == "__main__":
    main()
