"""What holds for every format."""

import gzip
import json
import pickle
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.stores import open_store
from jobs.reading.badfiles import BadFiles, ChangedFile
from jobs.reading.columns import ColumnError, Columns
from jobs.reading.listing import list_input
from jobs.reading.parts import UnitLimits
from jobs.reading.plan import plan_spans
from jobs.reading.read import read_span
from jobs.reading.spans import line_spans
from tests.jobs.reader_fixtures import COLUMNS, faults, pairs, parts_of, read


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
