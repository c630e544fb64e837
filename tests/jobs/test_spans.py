import gzip
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from jobs.reading.badfiles import BadFiles
from jobs.reading.columns import ColumnError, Columns
from jobs.reading.listing import list_input
from jobs.reading.plan import SpanPlan, plan_spans
from jobs.reading.spans import line_spans, verify_file

COLUMNS = Columns("id", "text")
LINES = b"".join(b'{"id": %d, "text": "row %d"}\n' % (i, i * i) for i in range(3000))


def plan(folder: Path, columns: Columns = COLUMNS, **options: object) -> SpanPlan:
    return plan_spans(list_input(str(folder)).files, columns, **options)  # type: ignore[arg-type]


def write(path: Path, group_rows: int | None = None, **columns: pa.Array | list[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group_rows)


def test_parquet_is_cut_between_row_groups(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", 10, id=list(range(35)), text=["x"] * 35)
    whole = plan(tmp_path).spans
    assert [(span.start, span.stop, span.num_rows, span.first_row) for span in whole] == [(0, 4, 35, 0)]
    cut = plan(tmp_path, span_bytes=1).spans
    assert [(span.start, span.stop, span.num_rows, span.first_row) for span in cut] == [
        (0, 1, 10, 0),
        (1, 2, 10, 10),
        (2, 3, 10, 20),
        (3, 4, 5, 30),
    ]
    assert pickle.loads(pickle.dumps(cut)) == cut  # noqa: S301 - our own bytes


def test_lines_are_cut_into_byte_ranges(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    spans = plan(tmp_path, span_bytes=40_000).spans
    assert [(span.start, span.first_row) for span in spans] == [(0, 0), (40_000, None), (80_000, None)]
    assert spans[-1].stop == len(LINES)


def test_what_cannot_be_entered_in_the_middle_is_one_span(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES))
    (span,) = plan(tmp_path, span_bytes=10).spans
    assert (span.start, span.first_row, span.num_rows) == (0, 0, None)


def test_empty_files(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst"):
        (tmp_path / name).write_bytes(b"")
    assert [span.num_rows for span in plan(tmp_path).spans] == [0, 0, 0]
    assert [verify_file(span) for span in plan(tmp_path).spans] == [None] * 3
    write(tmp_path / "p" / "x.parquet", id=pa.array([], pa.int64()), text=pa.array([], pa.string()))
    assert [span.num_rows for span in plan(tmp_path / "p").spans] == [0]


def test_all_bad_files_are_named_at_once(tmp_path: Path) -> None:
    write(tmp_path / "good.parquet", id=[1], text=["x"])
    data = (tmp_path / "good.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[:-10])
    (tmp_path / "empty.parquet").write_bytes(b"")
    with pytest.raises(
        BadFiles, match=r"2 input file\(s\)[\s\S]*cut\.parquet: [\s\S]*empty\.parquet: 0 bytes"
    ) as caught:
        plan(tmp_path)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301 - our own bytes
    rejecting = plan(tmp_path, bad_files="reject")
    assert [bad.path for bad in rejecting.bad_files] == ["cut.parquet", "empty.parquet"]
    assert [span.file.path for span in rejecting.spans] == ["good.parquet"]


def test_a_json_array_is_a_bad_file(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'[\n {"id": 1,\n "text": "x"}\n]')
    with pytest.raises(BadFiles, match="one JSON object a line"):
        plan(tmp_path)


def test_a_broken_start_of_a_compressed_file_is_seen(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.gz").write_bytes(b"no gzip at all")
    with pytest.raises(BadFiles, match=r"x\.jsonl\.gz: zlib"):
        plan(tmp_path)


@pytest.mark.parametrize("name", ["x.parquet", "x.csv", "x.csv.gz", "x.jsonl"])
@pytest.mark.parametrize(
    "columns", [Columns("idd", "text"), Columns("id", "texts"), Columns("id", "text", (("k", "txt"),))]
)
def test_unknown_column(tmp_path: Path, name: str, columns: Columns) -> None:
    match name:
        case "x.parquet":
            write(tmp_path / name, id=[1], text=["x"])
        case "x.csv":
            (tmp_path / name).write_bytes(b'\xef\xbb\xbfid,"text"\n1,x\n')
        case "x.csv.gz":
            (tmp_path / name).write_bytes(gzip.compress(b"id,text\r\n"))
        case _:
            (tmp_path / name).write_bytes(b'broken\n{"id": 1, "text": "x"}\n')
    with pytest.raises(
        ColumnError, match=r"no column '(idd|texts|txt)'; did you mean '(id|text)'\? It has 'id', 'text'"
    ):
        plan(tmp_path, columns)


def test_a_sparse_kept_key_may_be_absent_from_some_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"id": 1, "text": "x"}\n')
    (tmp_path / "b.jsonl").write_bytes(b'{"id": 1, "text": "x", "rating": 5}\n')
    assert len(plan(tmp_path, Columns("id", "text", (("rating", "rating"),))).spans) == 2


def test_doubled_csv_header(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"id,text,text\n")
    with pytest.raises(ColumnError, match="'text' is there 2 times"):
        plan(tmp_path)


def test_unreadable_csv_header(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b'id,"text\n1,x\n')
    with pytest.raises(BadFiles, match="header"):
        plan(tmp_path)


@pytest.mark.parametrize(
    ("id", "text", "message"),
    [
        (pa.array([1]), pa.array([1]), "text column 'text' is int64; it must be string"),
        (pa.array([1]), pa.array([b"x"]), "text column 'text' is binary"),
        (pa.array([[1]]), pa.array(["x"]), "id column 'id' is list"),
    ],
)
def test_unfit_types(tmp_path: Path, id: pa.Array, text: pa.Array, message: str) -> None:
    write(tmp_path / "x.parquet", id=id, text=text)
    with pytest.raises(ColumnError, match=message):
        plan(tmp_path)


def test_types_that_differ_in_width_only_are_one(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", id=pa.array([1], pa.int32()), text=pa.array(["x"], pa.large_string()))
    write(tmp_path / "b.parquet", id=pa.array([1], pa.uint8()), text=pa.array(["x"]).dictionary_encode())
    write(tmp_path / "c.parquet", id=pa.array([1], pa.int64()), text=pa.array(["x"], pa.string_view()))
    assert len(plan(tmp_path).spans) == 3


def test_mixed_schemas(tmp_path: Path) -> None:
    keep = Columns("id", "text", (("stars", "rating"),))
    write(tmp_path / "a.parquet", id=[1], text=["x"], rating=[1], other=[1])
    write(tmp_path / "b.parquet", id=[1], text=["x"], rating=["1"])
    assert len(plan(tmp_path).spans) == 2  # what isn't mapped may differ
    with pytest.raises(ColumnError, match=r"column 'rating' is int64 in .*a\.parquet but string in .*b\.parquet"):
        plan(tmp_path, keep)


def broken(name: str) -> dict[str, bytes]:
    """Every kind of damage to a compressed file."""
    if name.endswith("gz"):
        data = gzip.compress(LINES)
    else:
        data = zstandard.ZstdCompressor(write_checksum=True).compress(LINES)
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 0x55
    return {
        "whole": data,
        "two members": data + data,
        "end cut off": data[:-1],
        "half": data[: len(data) // 2],
        "second member cut": data + data[:20],
        "flipped": bytes(flipped),
        "trailing": data + b"junk",
    }


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst"])
def test_verify_finds_every_damage(tmp_path: Path, name: str) -> None:
    for damage, data in broken(name).items():
        (tmp_path / name).write_bytes(data)
        (span,) = line_spans(list_input(str(tmp_path)).files[0])
        cause = verify_file(span)
        assert (cause is None) == (damage in ("whole", "two members")), damage
