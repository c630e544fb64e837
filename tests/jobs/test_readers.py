import gzip
import itertools
import json
import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.stores import open_store
from jobs.reading.badfiles import BadFiles, ChangedFile
from jobs.reading.columns import ColumnError, Columns
from jobs.reading.listing import list_input
from jobs.reading.parts import Part, UnitLimits
from jobs.reading.plan import plan_spans
from jobs.reading.read import read_span
from jobs.reading.rejects import REJECTED_SCHEMA
from jobs.reading.spans import SPAN_BYTES, Span, line_spans

COLUMNS = Columns("id", "text")
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def parts_of(
    path: Path | str, columns: Columns = COLUMNS, limits: UnitLimits | None = None, span_bytes: int = SPAN_BYTES
) -> Iterator[Part]:
    for span in plan_spans(list_input(str(path)).files, columns, span_bytes=span_bytes).spans:
        parts = list(read_span(span, columns, limits or UnitLimits()))
        assert [part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]
        assert [part.index for part in parts] == list(range(len(parts)))
        for part in parts:
            assert part.rows_in == part.rows.num_rows + part.rejected.num_rows
            assert part.rejected.schema == REJECTED_SCHEMA
            part.rows.validate(full=True)
            part.rejected.validate(full=True)
        yield from parts


def read(path: Path | str, columns: Columns = COLUMNS, **options: int) -> tuple[pa.Table, pa.Table]:
    parts = list(parts_of(path, columns, span_bytes=options.get("span_bytes", SPAN_BYTES)))
    return pa.concat_tables([part.rows for part in parts]), pa.concat_tables([part.rejected for part in parts])


def pairs(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))


def faults(rejected: pa.Table) -> list[tuple[str | None, int | None, str, str | None]]:
    names = ("id", "row", "reason", "detail")
    return list(zip(*(rejected[name].to_pylist() for name in names), strict=True))


def not_utf8(*values: bytes) -> pa.Array:
    return pa.array(values, pa.binary()).view(pa.string())


# Parquet


def test_parquet_rows_and_faults(tmp_path: Path) -> None:
    table = pa.table(
        {
            "key": pa.array([10, None, 12, 13, 14, 10, 16], pa.int32()),
            "body": ["good", "no id", None, "", " \t\u3000\n", "again", "很好"],
        }
    )
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=3)
    rows, rejected = read(tmp_path, Columns("key", "body"))
    assert rows.to_pylist() == [
        {"id": "10", "text": "good", "row": 0, "byte": None},
        {"id": "10", "text": "again", "row": 5, "byte": None},
        {"id": "16", "text": "很好", "row": 6, "byte": None},
    ]
    assert faults(rejected) == [
        (None, 1, "null_id", "null"),
        ("12", 2, "null_text", None),
        ("13", 3, "empty_text", None),
        ("14", 4, "empty_text", None),
    ]
    assert set(rejected["file"].to_pylist()) == {"x.parquet"}


def test_parquet_invalid_utf8_is_found_in_every_mapped_column(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": not_utf8(b"1", b"\xff", b"3", b"4"),
            "text": not_utf8(b"ok", b"ok", b"a\xc3(", b"ok"),
            "note": not_utf8(b"n", b"n", b"n", b"\x80"),
            "other": not_utf8(b"\xff", b"\xff", b"\xff", b"\xff"),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    rows, rejected = read(tmp_path, Columns("id", "text", (("n", "note"),)))
    assert pairs(rows) == [("1", "ok")]
    assert faults(rejected) == [
        (None, 1, "invalid_utf8", "column 'id'"),
        ("3", 2, "invalid_utf8", "column 'text'"),
        ("4", 3, "invalid_utf8", "column 'note'"),
    ]


def test_parquet_kept_columns_have_one_type_however_they_are_written(tmp_path: Path) -> None:
    wide = {
        "n": pa.array([1, 2], pa.int64()),
        "f": pa.array([0.5, None], pa.float64()),
        "s": pa.array(["a", "b"], pa.large_string()),
        "t": pa.array([1_500, None], pa.timestamp("ns", "UTC")),
        "d": pa.array([1, 2], pa.date32()),
    }
    narrow = {
        "n": pa.array([1, 2], pa.int8()),
        "f": pa.array([0.5, None], pa.float32()),
        "s": pa.array(["a", "b"]).dictionary_encode(),
        "t": pa.array([1, None], pa.timestamp("us", "UTC")),
        "d": pa.array([1, 2], pa.date32()),
    }
    columns = Columns("id", "text", tuple((f"my_{name}", name) for name in wide))
    for name, values in (("a", wide), ("b", narrow)):
        pq.write_table(
            pa.table({"id": [f"{name}1", f"{name}2"], "text": ["x", "y"], **values}), tmp_path / f"{name}.pq"
        )
    first, second = parts_of(tmp_path, columns)
    assert first.rows.schema == second.rows.schema
    assert first.rows.schema.types[4:] == [
        pa.int64(),
        pa.float64(),
        pa.string(),
        pa.timestamp("us", tz="UTC"),
        pa.date32(),
    ]
    assert first.rows.drop_columns("id").equals(second.rows.drop_columns("id"))


def test_parquet_spans_number_rows_through_the_file(tmp_path: Path) -> None:
    table = pa.table({"id": [str(i) for i in range(25)], "text": [f"t{i}" for i in range(25)]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=10)
    rows, _ = read(tmp_path, span_bytes=1)
    assert rows["row"].to_pylist() == list(range(25))
    assert pairs(rows) == [(str(i), f"t{i}") for i in range(25)]


def test_parquet_with_a_broken_page_stops(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"id": list(range(5000)), "text": [f"text {i * 7919}" for i in range(5000)]}), path)
    data = bytearray(path.read_bytes())
    data[2000:2600] = bytes(600)
    path.write_bytes(data)
    with pytest.raises(BadFiles, match=r"x\.parquet"):
        read(tmp_path)


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


# All formats


def write_as(folder: Path, format: str, ids: list[str], texts: list[str]) -> None:
    match format:
        case "parquet":
            pq.write_table(pa.table({"id": ids, "text": texts}), folder / "x.parquet", row_group_size=7)
        case "jsonl":
            lines = [json.dumps({"id": id, "text": text}) for id, text in zip(ids, texts, strict=True)]
            (folder / "x.jsonl").write_text("\n".join(lines))
        case _:
            lines = ["id,text", *(f'{id},"{text}"' for id, text in zip(ids, texts, strict=True))]
            (folder / "x.csv").write_text("\n".join(lines))


@pytest.mark.parametrize("format", ["parquet", "jsonl", "csv"])
def test_any_part_size_gives_the_same_rows(tmp_path: Path, format: str) -> None:
    texts = ["好" * (i % 9) for i in range(40)]
    write_as(tmp_path, format, [str(i) for i in range(40)], texts)
    (whole,) = parts_of(tmp_path)

    @settings(max_examples=25, deadline=None)
    @given(rows=st.integers(1, 50), text_bytes=st.integers(1, 400))
    def check(rows: int, text_bytes: int) -> None:
        parts = list(parts_of(tmp_path, limits=UnitLimits(rows, text_bytes)))
        assert pa.concat_tables([part.rows for part in parts]).equals(whole.rows)
        assert pa.concat_tables([part.rejected for part in parts]).equals(whole.rejected)
        at = 0
        for part in parts:
            sizes = [len(text.encode()) for text in texts[at : at + part.rows_in]]
            at += part.rows_in
            assert part.rows_in <= rows
            assert sum(sizes[:-1]) < text_bytes
            assert part.is_last or part.rows_in == rows or sum(sizes) >= text_bytes

    check()


@pytest.mark.parametrize("format", ["parquet", "jsonl", "csv"])
def test_a_text_of_a_megabyte_is_a_text(tmp_path: Path, format: str) -> None:
    texts = ["short", "长" * 333_334, "after"]
    write_as(tmp_path, format, ["1", "2", "3"], texts)
    first, second = parts_of(tmp_path, limits=UnitLimits(text_bytes=1_000_000))
    assert first.rows["text"].to_pylist() == texts[:2]
    assert second.rows["text"].to_pylist() == texts[2:]


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.csv", "x.csv.zst"])
def test_an_empty_file_is_one_empty_part(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    (part,) = parts_of(tmp_path, Columns("id", "text", (("k", "k"),)))
    assert (part.index, part.is_last, part.rows_in) == (0, True, 0)
    assert part.rows.schema.names == ["id", "text", "row", "byte", "k"]


def test_a_parquet_file_of_no_rows_is_one_empty_part(tmp_path: Path) -> None:
    table = pa.table({"id": pa.array([], pa.int64()), "text": pa.array([], pa.string()), "k": pa.array([], pa.int8())})
    pq.write_table(table, tmp_path / "x.parquet")
    (part,) = parts_of(tmp_path, Columns("id", "text", (("k", "k"),)))
    assert (part.is_last, part.rows_in, part.rows.schema.field("k").type) == (True, 0, pa.int64())


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
def test_an_endless_line_is_rejected_and_never_held(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head, good = (b"", b'{"id": 1, "text": "x"}') if name == "x.jsonl" else (b"id,text\n", b"1,x")
    with (tmp_path / name).open("wb") as file:
        file.write(head)
        for _ in range(72):
            file.write(b"x" * 2**20)
        file.write(b"\n" + good)
    span = line_spans(list_input(str(tmp_path)).files[0], span_bytes=2**30)[0]
    (part,) = read_span(span, COLUMNS, UnitLimits())
    assert pairs(part.rows) == [("1", "x")]
    assert faults(part.rejected)[0][2] == "too_long"


@pytest.mark.slow
def test_memory_is_bounded_by_the_part_not_the_file(tmp_path: Path) -> None:
    line = b'{"id": %d, "text": "' + b"x" * 1000 + b'"}\n'
    with gzip.open(tmp_path / "x.jsonl.gz", "wb", compresslevel=1) as file:
        for i in range(20_000):
            file.write(line % i)
    (span,) = line_spans(list_input(str(tmp_path)).files[0])
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    most = 0
    for part in read_span(span, COLUMNS, UnitLimits(text_bytes=2**20)):
        most = max(most, pa.total_allocated_bytes() - before)
        assert part.rows_in <= 1049
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 10 * 2**20  # of 20 MB
    assert peak < 14 * 2**20


def test_a_file_that_changed_since_the_plan_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"id": 1, "text": "x"}\n')
    (span,) = plan_spans(list_input(str(tmp_path)).files, COLUMNS).spans
    path.write_bytes(b'{"id": 1, "text": "another"}\n')
    with pytest.raises(ChangedFile, match="plan again"):
        list(read_span(span, COLUMNS, UnitLimits()))


@pytest.mark.parametrize("damage", ["x.jsonl.gz", "x.csv.gz"])
def test_a_truncated_file_raises_rather_than_ends(tmp_path: Path, damage: str) -> None:
    data = gzip.compress(b"id,text\n" + b"".join(b"%d,%d\n" % (i, i * i) for i in range(9000)))
    (tmp_path / damage).write_bytes(data[:-9])
    span = line_spans(list_input(str(tmp_path)).files[0])[0]
    with pytest.raises(BadFiles, match="Truncated"):
        list(read_span(span, COLUMNS, UnitLimits()))


@pytest.mark.slow
def test_reading_from_s3_is_reading_from_disk(tmp_path: Path, s3_bucket: str) -> None:
    for format in ("parquet", "jsonl", "csv"):
        local = tmp_path / format
        local.mkdir()
        write_as(local, format, [str(i) for i in range(30)], [f"text {i}" for i in range(30)])
        remote = open_store(f"{s3_bucket}/{format}")
        for info in open_store(str(local)).list():
            remote.put(info.path, open_store(str(local)).read_bytes(info.path))
        here, there = (read(place, span_bytes=200) for place in (local, f"{s3_bucket}/{format}"))
        assert here[0].equals(there[0])
        assert here[1].equals(there[1])


def test_specs_and_parts_survive_pickling(tmp_path: Path) -> None:
    write_as(tmp_path, "jsonl", ["1"], ["x"])
    (part,) = parts_of(tmp_path)
    for value in (part, COLUMNS, UnitLimits(), list_input(str(tmp_path))):
        assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301 - our own bytes


@pytest.mark.parametrize(
    ("id", "keep", "message"),
    [
        ("", (), "empty"),
        ("id", (("text", "x"),), "'text': that name is taken"),
        ("id", (("a", "x"), ("a", "y")), "two kept columns are called 'a'"),
    ],
)
def test_columns_are_checked(id: str, keep: tuple[tuple[str, str], ...], message: str) -> None:
    with pytest.raises(ColumnError, match=message):
        Columns(id, "text", keep)


@pytest.mark.parametrize("limits", [{"rows": 0}, {"text_bytes": -1}])
def test_limits_are_checked(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        UnitLimits(**limits)
