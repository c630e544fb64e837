from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.reading.badfiles import BadFiles
from jobs.reading.columns import Columns
from tests.jobs.reader_fixtures import faults, not_utf8, pairs, parts_of, read


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
