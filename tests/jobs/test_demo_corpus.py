"""The demo corpus: the same bytes for a seed, and truth that a second, independent reading of the files confirms."""

import gzip
import json
import re
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.demo.corpus import write_corpus
from jobs.demo.facts import Facts

NUM_ROWS = 1_500
WEEK = timedelta(weeks=1)


@dataclass(frozen=True)
class Corpus:
    folder: Path
    facts: Facts
    rows: list[dict[str, Any]]  # the valid ones, with the truth under "truth"
    broken: Counter[str]
    num_lines: int


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("demo")
    facts = write_corpus(folder, NUM_ROWS, seed=3)
    truth = {row["id"]: row for row in pq.read_table(folder / "truth.parquet").to_pylist()}
    rows, broken, num_lines = [], Counter[str](), 0
    for path in sorted((folder / "corpus").glob("*/*")):
        for reason, row in read(path):
            num_lines += 1
            if reason:
                broken[reason] += 1
            else:
                rows.append(row | {"source": path.parent.name, "month": path.name[:7], "truth": truth[row["id"]]})
    return Corpus(folder, facts, rows, broken, num_lines)


def read(path: Path) -> list[tuple[str | None, dict[str, Any]]]:
    """The lines of a file, each with the reason for which it must be rejected, if any."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = content.removesuffix(b"\n").split(b"\n")
    records = [parsed(line) for line in lines]
    return [
        ("duplicate_id" if place and lines[place - 1] == line else reason, row)
        for place, (line, (reason, row)) in enumerate(zip(lines, records, strict=True))
    ]


def parsed(line: bytes) -> tuple[str | None, dict[str, Any]]:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError:
        return "invalid_utf8", {}
    except json.JSONDecodeError:
        return "bad_json", {}
    if row["id"] is None:
        return "null_id", row
    if row["text"] is None:
        return "null_text", row
    if not isinstance(row["text"], str):
        return "text_not_string", row
    return (None if row["text"].strip() else "empty_text"), row


def week_of(row: dict[str, Any]) -> date:
    day = datetime.fromisoformat(row["created_at"]).date()
    return day - timedelta(days=day.weekday())


def with_fact(corpus: Corpus, fact: str) -> list[dict[str, Any]]:
    return [row for row in corpus.rows if fact in row["truth"]["facts"]]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_seed_gives_same_bytes_and_another_seed_others(corpus: Corpus, tmp_path: Path) -> None:
    write_corpus(tmp_path / "again", NUM_ROWS, seed=3)
    write_corpus(tmp_path / "other", NUM_ROWS, seed=4)
    assert contents(tmp_path / "again") == contents(corpus.folder)
    assert contents(tmp_path / "other") != contents(corpus.folder)


def test_second_run_touches_nothing_that_stands_and_removes_what_is_stale(tmp_path: Path) -> None:
    write_corpus(tmp_path, 600, seed=1)
    stale = tmp_path / "corpus" / "source=shop" / "2025-12.jsonl"
    stale.write_text("{}\n")
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path != stale}
    write_corpus(tmp_path, 600, seed=1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == times


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_rows is 10;"):
        write_corpus(tmp_path, 10, seed=1)


def test_layout(corpus: Corpus) -> None:
    files = sorted((corpus.folder / "corpus").glob("*/*"))
    assert 12 <= len(files) <= 40
    assert {path.suffix for path in files} == {".jsonl", ".gz"}
    assert {path.name for path in corpus.folder.iterdir()} == {"corpus", "facts.json", "truth.parquet"}
    assert all(row["created_at"].startswith(row["month"]) for row in corpus.rows)
    assert {week_of(row) for row in corpus.rows} == {date(2026, 1, 5) + week * WEEK for week in range(26)}


def test_counts_equal_what_the_files_hold(corpus: Corpus) -> None:
    facts = corpus.facts
    texts = [row["text"] for row in corpus.rows]
    assert json.loads((corpus.folder / "facts.json").read_text()) == json.loads(json.dumps(asdict(facts)))
    assert facts.num_lines == corpus.num_lines == NUM_ROWS
    assert facts.rows_valid == len(corpus.rows) == pq.read_metadata(corpus.folder / "truth.parquet").num_rows
    assert facts.rows_rejected == corpus.broken.total()
    assert facts.broken_rows == corpus.broken
    assert len(corpus.broken) == 7
    assert len({row["id"] for row in corpus.rows}) == len(corpus.rows)
    assert facts.num_over_20000_chars == sum(len(text) > 20_000 for text in texts) == 1
    assert facts.languages == Counter(row["truth"]["lang"] for row in corpus.rows)
    assert facts.sentiments == Counter(row["truth"]["sentiment"] for row in corpus.rows)
    for fact in facts.facts:
        assert fact.num_verbatims == len(with_fact(corpus, fact.id)) > 0, fact.id


def test_planted_facts_lie_in_their_weeks_and_scope_and_use_their_terms(corpus: Corpus) -> None:
    for fact in corpus.facts.facts:
        rows = with_fact(corpus, fact.id)
        assert date.fromisoformat(fact.first_week) <= min(map(week_of, rows)), fact.id
        assert max(map(week_of, rows)) <= date.fromisoformat(fact.last_week), fact.id
        for field in ("brand", "product"):
            assert {row[field] for row in rows} == {getattr(fact, field)} or getattr(fact, field) is None, fact.id
        if fact.terms_en and fact.id != "delivery_faster":
            terms = [term.lower() for term in (*fact.terms_zh, *fact.terms_en)]
            simplified = [row["text"].lower() for row in rows if row["region"] not in ("HK", "TW")]
            assert sum(any(term in text for term in terms) for text in simplified) > 0.9 * len(simplified), fact.id


def test_defect_starts_with_its_version_and_spreads(corpus: Corpus) -> None:
    rows = with_fact(corpus, "battery_overheat")
    assert {row["product_version"] for row in rows} == {"3.2"}
    assert min(map(week_of, rows)) >= date(2026, 4, 6)
    assert {row["truth"]["sentiment"] for row in rows} == {"negative"}

    def share(first: date, last: date) -> float:
        phones = [row for row in corpus.rows if row["product"] == "Tavelo P5" and first <= week_of(row) <= last]
        return sum("battery_overheat" in row["truth"]["facts"] for row in phones) / len(phones)

    assert share(date(2026, 1, 5), date(2026, 3, 30)) == 0
    assert 0 < share(date(2026, 4, 6), date(2026, 4, 13)) < share(date(2026, 4, 27), date(2026, 6, 1))


def test_delivery_improves(corpus: Corpus) -> None:
    polarities: defaultdict[bool, list[bool]] = defaultdict(list)
    for row in with_fact(corpus, "delivery_faster"):
        polarities[week_of(row) > date(2026, 4, 1)] += [
            topic["polarity"] == "positive" for topic in row["truth"]["topics"] if topic["topic"] == "delivery"
        ]
    before, after = (sum(polarities[late]) / len(polarities[late]) for late in (False, True))
    assert after > before + 0.15


def test_sentiments_and_stars_agree(corpus: Corpus) -> None:
    stars = {"negative": {1, 2}, "neutral": {3}, "positive": {4, 5}}
    for row in corpus.rows:
        if row["source"] in ("source=call_notes", "source=social"):
            assert "rating" not in row
        else:
            assert row["rating"] in stars[row["truth"]["sentiment"]]


def test_half_is_chinese_and_the_text_is_in_its_language(corpus: Corpus) -> None:
    han = re.compile(r"[\u4e00-\u9fff]")
    assert 0.45 < corpus.facts.languages["zh"] / corpus.facts.rows_valid < 0.55
    assert {row["truth"]["lang"] for row in corpus.rows if han.search(row["text"])} == {"zh"}


def test_texts_are_various_and_finished(corpus: Corpus) -> None:
    texts = [row["text"] for row in corpus.rows if "copy_paste" not in row["truth"]["facts"]]
    long_texts = [text for text in texts if len(text) > 15]
    assert len(set(long_texts)) > 0.9 * len(long_texts)
    unfinished = re.compile(r"<(?!script>|/script>|br ?/>|3|/3)|\|(?!' /C)|  ")
    assert [text for text in texts if unfinished.search(text)] == []


def test_campaigns_are_pasted(corpus: Corpus) -> None:
    copies = Counter(row["text"] for row in with_fact(corpus, "copy_paste"))
    assert len(copies) == corpus.facts.num_campaign_texts
    assert min(copies.values()) > 5
    assert 0.03 < copies.total() / NUM_ROWS < 0.04


def luhn(number: str) -> bool:
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(number))]
    return sum(value // 10 + value % 10 for value in doubled) % 10 == 0


def id_checks(number: str) -> bool:
    total = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(number[:17]))
    return (total + (10 if number[17] == "X" else int(number[17]))) % 11 == 1


FORMS = {
    "mobile_cn": r"(?<!\d)1\d{2}[- ]?0000[- ]?\d{4}(?!\d)",
    "phone_us": r"\d{3}\)?[-. ]555[-. ]01\d{2}\b",
    "email": r"[\w.-]+@[\w.-]+\w",
    "id_card_cn": r"(?<!\d)\d{17}[\dX]",
    "bank_card": r"(?<!\d)(?:\d{4} ?){3}\d{4}(?![\dX])",
}


def test_personal_data_is_well_formed_and_nobodys(corpus: Corpus) -> None:
    found: dict[str, list[str]] = {
        kind: [hit[0] for row in corpus.rows if (hit := re.search(form, row["text"]))] for kind, form in FORMS.items()
    }
    assert {kind: len(hits) for kind, hits in found.items()} == corpus.facts.personal_data
    assert sum(corpus.facts.personal_data.values()) == pytest.approx(0.02 * NUM_ROWS, abs=1)
    assert all(luhn(card.replace(" ", "")) for card in found["bank_card"])
    assert all(id_checks(number) for number in found["id_card_cn"])
    assert all(re.search(r"@example\.(com|org)$", address) for address in found["email"])


def test_hostile_texts_stand_as_they_were_planted(corpus: Corpus) -> None:
    starts = {
        "formula": "=cmd|",
        "script": "<script>alert(1)</script>",
        "template": "{{7*7}}",
        "sql": "'; DROP TABLE",
        "rtl_override": "\u202e",
        "zero_width": "\u200b",
    }
    found = {kind: sum(row["text"].startswith(start) for row in corpus.rows) for kind, start in starts.items()}
    assert found == corpus.facts.hostile
    assert all(
        row["text"].startswith(starts[row["truth"]["hostile"]]) for row in corpus.rows if row["truth"]["hostile"]
    )
