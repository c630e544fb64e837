import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.store_errors import StoreDenied, StoreNotFound
from cluster.stores import open_store
from jobs.reading.listing import list_input

Fill = Callable[..., str]


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def fill(request: pytest.FixtureRequest, tmp_path: Path) -> Fill:
    """Write empty files with these paths to a store and give its URI."""
    uri = str(tmp_path / "corpus") if request.param == "local" else f"{request.getfixturevalue('s3_bucket')}/corpus"

    def write(*paths: str) -> str:
        for path in paths:
            open_store(uri).put(path, b"x")
        return uri

    return write


def paths(uri: str) -> list[str]:
    return [file.path for file in list_input(uri).files]


def test_one_file(fill: Fill) -> None:
    uri = fill("b/x.jsonl", "b/y.jsonl")
    (file,) = list_input(f"{uri}/b/y.jsonl").files
    assert (file.path, file.uri, file.size_bytes) == ("y.jsonl", f"{uri}/b/y.jsonl", 1)
    assert (file.format, file.compression, file.partitions) == ("jsonl", None, ())
    assert file.etag == open_store(file.uri).stat().etag


def test_folder_is_sorted_and_leaves_out_hidden_names(fill: Fill) -> None:
    uri = fill("b.csv", "a/z.csv", "a.csv.gz", "_SUCCESS", ".crc", "_temporary/0/x.csv", "a/.x.csv.crc")
    listing = list_input(uri)
    assert [file.path for file in listing.files] == ["a.csv.gz", "a/z.csv", "b.csv"]
    assert listing.num_ignored == 4
    assert listing == list_input(uri + "/")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.jsonl", ["a.jsonl"]),
        ("*/b.jsonl", ["dt=1/b.jsonl", "dt=2/b.jsonl"]),
        ("**/*.jsonl", ["a.jsonl", "dt=1/b.jsonl", "dt=2/b.jsonl", "dt=2/c/d.jsonl"]),
        ("dt=[2-9]", ["dt=2/b.jsonl", "dt=2/c/d.jsonl"]),
        ("dt=?/b.*", ["dt=1/b.jsonl", "dt=2/b.jsonl"]),
    ],
)
def test_glob(fill: Fill, pattern: str, found: list[str]) -> None:
    uri = fill("a.jsonl", "dt=1/b.jsonl", "dt=2/b.jsonl", "dt=2/c/d.jsonl")
    assert paths(f"{uri}/{pattern}") == found


def test_hive_partitions(fill: Fill) -> None:
    uri = fill("lang=zh/day=2024-05-01%2012/x.parquet", "lang=en/x.parquet")
    english, chinese = list_input(uri).files
    assert english.partitions == (("lang", "en"),)
    assert chinese.partitions == (("lang", "zh"), ("day", "2024-05-01 12"))


@pytest.mark.parametrize(
    ("name", "format", "compression"),
    [
        ("x.PARQUET", "parquet", None),
        ("x.pq", "parquet", None),
        ("x.json", "jsonl", None),
        ("x.ndjson.zstd", "jsonl", "zstd"),
        ("x.jsonl.zst", "jsonl", "zstd"),
        ("x.v2.csv.gzip", "csv", "gzip"),
        ("x.tsv.GZ", "csv", "gzip"),
    ],
)
def test_format_by_extension(tmp_path: Path, name: str, format: str, compression: str | None) -> None:
    (tmp_path / name).write_bytes(b"")
    (file,) = list_input(str(tmp_path)).files
    assert (file.format, file.compression, file.size_bytes) == (format, compression, 0)


def test_forced_format(tmp_path: Path) -> None:
    (tmp_path / "part-0001.gz").write_bytes(b"")
    (tmp_path / "part-0002").write_bytes(b"")
    files = list_input(str(tmp_path), "jsonl").files
    assert [(file.format, file.compression) for file in files] == [("jsonl", "gzip"), ("jsonl", None)]


@pytest.mark.parametrize(
    ("names", "format", "message"),
    [
        (["a.csv", "notes.txt"], "auto", r"notes\.txt: unknown extension '\.txt'; known are \.parquet"),
        (["a.gz"], "auto", "unknown extension ''"),
        (["a.parquet.gz"], "auto", "compressed inside"),
        (["a.csv", "b.jsonl"], "auto", r"mixes formats: .*a\.csv is csv, .*b\.jsonl is jsonl"),
    ],
)
def test_files_that_are_not_understood(tmp_path: Path, names: list[str], format: str, message: str) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        list_input(str(tmp_path))


def test_nothing_there(fill: Fill) -> None:
    uri = fill("hidden/_x.csv", "x.csv")
    with pytest.raises(StoreNotFound, match="no such file, or an empty folder"):
        list_input(f"{uri}/gone")
    with pytest.raises(StoreNotFound, match=r"nothing but 1 file\(s\)"):
        list_input(f"{uri}/hidden")
    with pytest.raises(StoreNotFound, match="no file matches"):
        list_input(f"{uri}/*.parquet")


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match="empty folder"):
        list_input(str(tmp_path))


def test_missing_bucket_and_wildcard_bucket(s3_bucket: str) -> None:
    with pytest.raises(StoreNotFound, match="no such bucket"):
        list_input(f"{s3_bucket}-gone")
    with pytest.raises(StoreNotFound, match="empty folder"):
        list_input(s3_bucket)
    with pytest.raises(ValueError, match="wildcard"):
        list_input("s3://corp*/x")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody who may read nothing")
def test_unreadable_folder(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"")
    tmp_path.chmod(0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(StoreDenied, match="mode"):
            list_input(str(tmp_path))
    finally:
        os.seteuid(0)
