import gzip
import itertools
import json
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.reading.columns import Columns
from jobs.reading.listing import list_input
from jobs.reading.parts import UnitLimits
from jobs.reading.read import read_span
from jobs.reading.spans import Span
from tests.jobs.reader_fixtures import COLUMNS, faults, pairs, read

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# JSONL

JSONL_CASES = [
    (b'{"id": 1, "text": "ok"}\r', ("1", "ok")),
    (b'{"id": "b", "text": "\\u597d\\ud83d\\ude00"}', ("b", "好😀")),
    (b'{"id": 1.5, "text": "x"}', ("1.5", "x")),
    (b'{"id": 3, "text": "cut', (None, "bad_json", "column 19: Unterminated string starting at")),
    (b"[1]", (None, "not_an_object", "an array")),
    (b"17", (None, "not_an_object", "a number")),
    (b'{"id": 4, "text": "\xff"}', (None, "invalid_utf8", "byte 19 of the line")),
    (b'{"id": 5, "text": "\\ud800"}', ("5", "invalid_utf8", "key 'text': a lone surrogate")),
    (b'{"id": null, "text": "x"}', (None, "null_id", "null")),
    (b'{"id": "", "text": "x"}', ("", "null_id", "no characters")),
    (b'{"text": "x"}', (None, "missing_column", "no key 'id'")),
    (b'{"id": 6}', ("6", "missing_column", "no key 'text'")),
    (b'{"id": true, "text": "x"}', (None, "id_not_string", "a boolean")),
    (b'{"id": 7, "text": null}', ("7", "null_text", None)),
    (b'{"id": 8, "text": " \\n\\u3000"}', ("8", "empty_text", None)),
    (b'{"id": 9, "text": 5}', ("9", "text_not_string", "a number")),
    (b'{"id": 1, "text": "again"}', ("1", "again")),
    (b"[" * 100_000, (None, "bad_json", "nested too deeply")),
    (b'{"id": ' + b"9" * 5000 + b"}", (None, "bad_json", "a number of too many digits")),
]


@pytest.mark.parametrize("compress", [None, gzip.compress, zstandard.ZstdCompressor().compress])
def test_jsonl_rows_and_faults(tmp_path: Path, compress: object) -> None:
    data = b"\xef\xbb\xbf" + b"\n\n".join(line for line, _ in JSONL_CASES) + b"\n \n"
    ending = {None: "", gzip.compress: ".gz"}.get(compress, ".zst")  # type: ignore[call-overload]
    (tmp_path / f"x.jsonl{ending}").write_bytes(compress(data) if callable(compress) else data)
    rows, rejected = read(tmp_path)
    expected = [(2 * number, *answer) for number, (_, answer) in enumerate(JSONL_CASES)]
    assert [(row, *pair) for row, pair in zip(rows["row"].to_pylist(), pairs(rows), strict=True)] == [
        answer for answer in expected if len(answer) == 3
    ]
    assert [(row, id, reason, detail) for id, row, reason, detail in faults(rejected)] == [
        answer for answer in expected if len(answer) == 4
    ]
    assert rows["byte"].null_count == rows.num_rows


def test_jsonl_kept_values(tmp_path: Path) -> None:
    item = {"id": 1, "text": "x", "s": "文", "n": 1, "o": {"a": [1, "é"]}, "b": False, "z": None}
    (tmp_path / "lang=zh").mkdir()
    (tmp_path / "lang=zh" / "x.jsonl").write_text(json.dumps(item) + '\n{"id": 2, "text": "y", "n": NaN}\n')
    columns = Columns("id", "text", tuple((name, name) for name in ("s", "n", "o", "b", "z", "lang")))
    rows, _ = read(tmp_path, columns)
    assert rows.drop_columns(["row", "byte"]).to_pylist() == [
        {"id": "1", "text": "x", "s": "文", "n": "1", "o": '{"a":[1,"é"]}', "b": "false", "z": None, "lang": "zh"},
        {"id": "2", "text": "y", "s": None, "n": None, "o": None, "b": None, "z": None, "lang": "zh"},
    ]


def test_jsonl_place_is_an_offset_where_the_row_is_unknown(tmp_path: Path) -> None:
    lines = [b'{"id": %d, "text": "x"}\n' % i for i in range(100, 110)]
    (tmp_path / "x.jsonl").write_bytes(b"".join(lines) + b"bad")
    rows, rejected = read(tmp_path, span_bytes=100)
    assert rows["row"].to_pylist() == [0, 1, 2, 3, None, None, None, None, None, None]
    assert rows["byte"].to_pylist()[4:] == [len(lines[0]) * i for i in range(4, 10)]
    assert (rejected["row"].to_pylist(), rejected["byte"].to_pylist()) == ([None], [len(lines[0]) * 10])


@quick
@given(
    lines=st.lists(st.integers(0, 40), max_size=20),
    cuts=st.lists(st.integers(0, 700), max_size=12),
    ending=st.booleans(),
    crlf=st.booleans(),
)
def test_jsonl_any_cut_gives_each_line_once(
    tmp_path: Path, lines: list[int], cuts: list[int], ending: bool, crlf: bool
) -> None:
    items = [b'{"id":%d,"text":"%s"}' % (i, b"x" * (size + 1)) if size else b"" for i, size in enumerate(lines)]
    data = (b"\r\n" if crlf else b"\n").join(items) + (b"\n" if ending else b"")
    (tmp_path / "x.jsonl").write_bytes(data)
    (file,) = list_input(str(tmp_path)).files
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    ids: list[str] = []
    for start, stop in itertools.pairwise(edges):
        span = Span(file, start, stop, None, 0 if start == 0 else None)
        for part in read_span(span, COLUMNS, UnitLimits()):
            assert part.rejected.num_rows == 0
            ids += part.rows["id"].to_pylist()
    assert ids == [str(i) for i, size in enumerate(lines) if size]


# CSV


def test_csv_rows_and_faults(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbfid,text,"no,te"\r',
        b'1,"two\r',  # 1, 2
        b'lines, ""quoted""",n\r',
        b"\r",
        b'2,"stray,n\r',  # 4
        b"3,good,\r",
        b'4,"a"b,n\r',  # 6
        b"5,too,many,fields\r",
        b"6,\xff,n\r",  # 8
        b",x,n\r",
        b"7, ,n\r",  # 10
        b"1,again,n\r",
        b'8,inner " quote,n\r',  # 12
        b'9,5" screen and 6" too,n',
    ]
    (tmp_path / "x.csv").write_bytes(b"\n".join(lines))
    rows, rejected = read(tmp_path, Columns("id", "text", (("note", "no,te"),)))
    assert rows.to_pylist() == [
        {"id": "1", "text": 'two\r\nlines, "quoted"', "row": 1, "byte": None, "note": "n"},
        {"id": "3", "text": "good", "row": 5, "byte": None, "note": None},
        {"id": "1", "text": "again", "row": 11, "byte": None, "note": "n"},
        {"id": "9", "text": '5" screen and 6" too', "row": 13, "byte": None, "note": "n"},
    ]
    quote = "a quote that isn't closed or stands in the wrong place"
    assert faults(rejected) == [
        (None, 4, "bad_csv", quote),
        (None, 6, "bad_csv", quote),
        (None, 7, "bad_csv", "4 fields, expected 3"),
        (None, 8, "invalid_utf8", "byte 2 of the record"),
        ("", 9, "null_id", "no characters"),
        ("7", 10, "empty_text", None),
        (None, 12, "bad_csv", quote),
    ]


def test_csv_quoted_text_ends_at_a_mebibyte_of_lines(tmp_path: Path) -> None:
    inside = (b"x" * 99 + b"\n") * 5_000
    (tmp_path / "x.csv").write_bytes(b'id,text\n1,"' + inside + b'"\n2,"' + inside * 3 + b"\n3,ok\n")
    rows, rejected = read(tmp_path)
    assert rows["id"].to_pylist() == ["1", "3"]
    assert rows["text"][0].as_py() == inside.decode()
    assert rejected["row"][0].as_py() == 5_002
    assert rejected.num_rows == 15_000  # what the quote meant to hold: lines of one field, none lost in silence


def test_tsv_and_partition(tmp_path: Path) -> None:
    folder = tmp_path / "lang=zh" / "day=__HIVE_DEFAULT_PARTITION__"
    folder.mkdir(parents=True)
    (folder / "x.tsv.gz").write_bytes(gzip.compress(b'text\tid\n"a\tb,c"\t1\n'))
    rows, _ = read(tmp_path, Columns("id", "text", (("language", "lang"), ("day", "day"))))
    (row,) = rows.to_pylist()
    assert row == {"id": "1", "text": "a\tb,c", "row": 1, "byte": None, "language": "zh", "day": None}


def test_csv_columns_may_stand_elsewhere_in_the_next_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"id,text\n1,x\n")
    (tmp_path / "b.csv").write_bytes(b"more,text,id\n?,y,2\n")
    assert pairs(read(tmp_path)[0]) == [("1", "x"), ("2", "y")]


@quick
@given(
    texts=st.lists(st.text('ab,\n"好 ', min_size=2, max_size=8).filter(str.strip), min_size=2, max_size=12),
    stray=st.sets(st.integers(0, 11), max_size=6),
)
def test_csv_stray_quotes_never_lose_the_other_rows(tmp_path: Path, texts: list[str], stray: set[int]) -> None:
    """A quote within a word of an unquoted line; the untouched records, some of many lines, must all come through."""
    quoted = ['"' + text.replace('"', '""') + '"' for text in texts]
    records = [f'{i},wo"rd' if i in stray else f"{i},{text}" for i, text in enumerate(quoted)]
    (tmp_path / "x.csv").write_bytes(("id,text\n" + "\n".join(records)).encode())
    rows, _ = read(tmp_path)
    found = dict(pairs(rows))
    for i, text in enumerate(texts):
        if i not in stray:
            assert found[str(i)] == text


@quick
@given(num_rows=st.integers(2, 12), line=st.integers(0, 11), place=st.integers(0, 9))
def test_csv_one_stray_quote_anywhere_costs_one_row(tmp_path: Path, num_rows: int, line: int, place: int) -> None:
    records = [f"id{i:02},text{i:02}" for i in range(num_rows)]
    line, place = line % num_rows, place % len(records[0])
    records[line] = records[line][:place] + '"' + records[line][place:]
    (tmp_path / "x.csv").write_bytes(("id,text\n" + "\n".join(records) + "\n").encode())
    rows, rejected = read(tmp_path)
    assert rows["id"].to_pylist() == [f"id{i:02}" for i in range(num_rows) if i != line]
    assert faults(rejected)[0][1:3] == (line + 1, "bad_csv")
