"""What a user can get wrong is said before any work starts, in words that name what and where, with exit code 2."""

import gzip
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from ray.exceptions import RayTaskError

from cluster.stores import open_store
from jobs.reading.columns import Columns
from jobs.reading.listing import list_input
from jobs.reading.plan import plan_spans
from jobs.score import lease as lease_module
from jobs.score.__main__ import main
from jobs.score.layout import SetLayout
from jobs.score.lease import Lease
from tests.jobs.conftest import Score, read_rejected
from tests.jobs.test_score_job import ROWS, write_lines

Cli = Callable[..., tuple[int, str]]


@pytest.fixture
def cli(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Call the command with overrides; gives the exit code and all that it printed."""
    config = tmp_path / "score.yaml"
    plain = {
        "input": str(tmp_path / "in"),
        "output": str(tmp_path / "out"),
        "bundle": str(tiny),
        "columns": {"id": "id", "text": "text"},
    }
    config.write_text(yaml.safe_dump(plain), encoding="utf-8")

    def call(*overrides: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["jobs.score", str(config), *overrides])
        code = main()
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write_lines(tmp_path / "in" / "a.jsonl", ROWS[:5])
    return tmp_path / "in"


@pytest.mark.usefixtures("corpus")
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["input=/no/such/place"], "/no/such/place: no such file, or an empty folder"),
        (["input=/no/such/*.jsonl"], "no file matches this pattern"),
        (["columns.text=txt"], "no column 'txt'; did you mean 'text'?"),
        (["columns.product=sku"], "no column 'sku'"),
        (["columns={text: text}"], "columns must map id and text to columns of the input; missing: ['id']"),
        (["columns.lang=product"], "are names of scores; pass them through as source_lang"),
        (["columns.stars=product"], "columns ['stars'] are what bundle tiny@"),
        (["columns.row=product"], "a kept column can't be called 'row'"),
        (["unit.row=5"], "unknown key unit.row: did you mean rows?"),
        (["token_budget=lots"], "token_budget: Input should be a valid integer"),
        (["precision=fp4"], "precision: Input should be 'auto', 'fp32', 'bf16', 'int8' or 'fp8' (got 'fp4')"),
        (["bundle=startr"], "bundle 'startr' isn't a folder here"),
        (["pool.threads"], "must read key=value"),
        (["pool.min_size=4", "pool.max_size=2"], "max_size 2 is under min_size 4"),
        (["unit.text_mib=.inf"], "unit.text_mib"),
    ],
)
def test_settings_that_do_not_fit(cli: Cli, overrides: list[str], message: str, tmp_path: Path) -> None:
    code, printed = cli(*overrides)
    assert code == 2
    assert message in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "out").exists(), "nothing was started"


def test_a_relative_output_of_a_submitted_job(cli: Cli, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    code, printed = cli("output=out/here")
    assert (code, "output 'out/here' of a submitted job must be a URI or an absolute path" in printed) == (2, True)


@pytest.mark.parametrize("output", ["{0}/scored", "{0}/x/../scored", "{0}-scored"])
def test_an_output_inside_the_input(cli: Cli, corpus: Path, output: str) -> None:
    inputs = [f"input={corpus}", f"input={corpus}*"] if "-" not in output else [f"input={corpus}*"]
    for given in inputs:
        code, printed = cli(given, f"output={output.format(corpus)}")
        assert (code, "lies inside input" in printed) == (2, True), given


@pytest.fixture
def unreadable() -> Iterator[Path]:
    """A file that this process may not read; root reads everything, so root becomes nobody for a while."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_lines(Path(folder) / "a.jsonl", ROWS[:5])
        path.chmod(0)
        Path(folder).chmod(0o755)
        was = os.geteuid()
        if was == 0:
            os.seteuid(65534)
        try:
            yield path
        finally:
            os.seteuid(was)


def test_an_unreadable_file(unreadable: Path) -> None:
    files = list_input(str(unreadable)).files
    with pytest.raises(PermissionError, match=r"a\.jsonl: access denied: the file's or folder's mode"):
        plan_spans(files, Columns("id", "text"))


def test_a_missing_bucket(cli: Cli, s3_bucket: str) -> None:
    code, printed = cli(f"input={s3_bucket}-not/x")
    assert (code, "no such bucket" in printed) == (2, True)


def test_an_empty_prefix(cli: Cli, s3_bucket: str) -> None:
    code, printed = cli(f"input={s3_bucket}/x")
    assert (code, "no such file, or an empty folder" in printed) == (2, True)


@pytest.mark.slow
def test_an_endpoint_that_does_not_answer(cli: Cli, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    open_store(s3_bucket)
    from cluster import stores  # noqa: PLC0415 - its cache must forget the endpoint that answers

    stores._connect.cache_clear()
    code, printed = cli(f"input={s3_bucket}/x")
    assert (code, "check AWS_ENDPOINT_URL" in printed) == (2, True)
    assert "test-secret" not in printed


def write_parquet(path: Path, **columns: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def test_a_truncated_parquet_file_stops_the_run(cli: Cli, tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", id=["1"], text=["x"])
    bad = write_parquet(tmp_path / "in" / "b.parquet", id=["2"], text=["y"])
    bad.write_bytes(bad.read_bytes()[:-20])
    code, printed = cli()
    assert code == 2
    assert "1 input file(s) can't be read:\n  - b.parquet" in printed


def test_mixed_schemas_in_a_folder(cli: Cli, tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", id=["1"], text=["x"], price=[1.0])
    write_parquet(tmp_path / "in" / "b.parquet", id=["2"], text=["y"], price=["cheap"])
    code, printed = cli("columns.price=price")
    assert code == 2
    assert "column 'price' is double in" in printed
    assert "but string in" in printed


def test_a_text_column_of_numbers(cli: Cli, tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", id=["1"], text=[3])
    code, printed = cli()
    assert (code, "'text'" in printed, "int64" in printed) == (2, True, True)


def test_a_dry_run_prints_the_plan_and_writes_nothing(cli: Cli, corpus: Path, tmp_path: Path) -> None:
    code, printed = cli("--dry-run")
    assert code == 0
    assert "files to read           1\n" in printed
    assert "fingerprint" in printed
    assert not (tmp_path / "out").exists()


def test_another_run_at_work(
    cli: Cli, corpus: Path, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "BEAT_S", 0.2)
    monkeypatch.setattr(lease_module, "WATCH_S", 2.0)
    _, printed = cli("--dry-run")
    facts = dict(line.split(None, 1) for line in printed.splitlines() if line.startswith(("bundle", "fingerprint")))
    layout = SetLayout(str(tmp_path / "out"), facts["bundle"].strip(), facts["fingerprint"].strip())
    with Lease(layout.root, f"{layout.ledger}/lease.json"):
        code, printed = cli()
    assert code == 1
    assert "another run is at work on this set of scores" in printed


def broken_gzip(path: Path) -> None:
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode())
    path.write_bytes(whole[: len(whole) // 2])


@pytest.mark.ray
def test_a_broken_gzip_stops_the_run_before_a_row_is_scored(
    cli: Cli, corpus: Path, tmp_path: Path, ray_address: str
) -> None:
    broken_gzip(corpus / "b.jsonl.gz")
    code, printed = cli(f"ray_address={ray_address}")
    assert code == 2
    assert "1 input file(s) can't be read:\n  - b.jsonl.gz" in printed
    assert not list((tmp_path / "out").rglob("*.parquet"))


@pytest.mark.ray
def test_a_bad_file_can_be_rejected_whole(score: Score, corpus: Path) -> None:
    broken_gzip(corpus / "b.jsonl.gz")
    manifest = score(corpus, bad_files="reject")
    assert (manifest["rows_in"], manifest["rows_scored"], manifest["files_rejected"]) == (5, 5, 1)
    assert [(row["file"], row["reason"]) for row in read_rejected(manifest)] == [("b.jsonl.gz", "bad_file")]
    assert score(corpus, bad_files="reject") == manifest, "there is nothing to do: the bad file is known"
    with pytest.raises(ValueError, match=r"b\.jsonl\.gz"):
        score(corpus)
    assert (Path(manifest["output"]) / "manifest.json").exists(), "nothing was started, so nothing was taken away"
    (corpus / "b.jsonl.gz").unlink()
    assert score(corpus)["files_rejected"] == 0, "a bad file that is gone is no longer told of"


@pytest.mark.ray
def test_a_bad_file_that_comes_later_is_told(score: Score, tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", id=["1"], text=["x"])
    assert score(tmp_path / "in", bad_files="reject")["files_rejected"] == 0
    (tmp_path / "in" / "b.parquet").write_bytes(b"PAR1")
    manifest = score(tmp_path / "in", bad_files="reject")
    assert [(row["file"], row["reason"]) for row in read_rejected(manifest)] == [("b.parquet", "bad_file")]


def test_nothing_but_bad_files_is_an_error(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.parquet").write_bytes(b"PAR1")
    code, printed = cli("bad_files=reject")
    assert (code, "1 input file(s) can't be read" in printed) == (2, True)


@pytest.mark.ray
def test_a_file_that_breaks_in_its_middle_is_rejected_whole(score: Score, tmp_path: Path) -> None:
    ids = [f"{i:05}" for i in range(4000)]
    texts = [f"质量 {i * 7919 % 4001}" for i in range(4000)]
    path = tmp_path / "in" / "a.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"id": ids, "text": texts}), path, row_group_size=1000, compression="zstd")
    column = pq.read_metadata(path).row_group(2).column(1)
    with path.open("r+b") as file:
        file.seek(column.dictionary_page_offset or column.data_page_offset)
        file.write(b"\xff" * 40)
    write_parquet(tmp_path / "in" / "b.parquet", id=["b"], text=["好"])
    with pytest.raises(RayTaskError, match=r"a\.parquet"):
        score(tmp_path / "in", unit={"rows": 500})
    manifest = score(tmp_path / "in", unit={"rows": 500}, bad_files="reject")
    assert (manifest["rows_in"], manifest["rows_scored"], manifest["files_rejected"]) == (1, 1, 1)
    assert [(row["file"], row["reason"]) for row in read_rejected(manifest)] == [("a.parquet", "bad_file")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"can't mount a small disk here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.ray
def test_a_full_disk_fails_clearly_and_can_be_resumed(
    cli: Cli, score: Score, tmp_path: Path, small_disk: Path, ray_address: str
) -> None:
    rows = [{"id": f"r{i:06}", "text": f"好 {i}"} for i in range(8000)]
    write_lines(tmp_path / "in" / "a.jsonl", rows)
    output = f"output={small_disk}/out"
    code, printed = cli(output, f"ray_address={ray_address}", "unit.rows=1000", "precision=fp32")
    assert code == 1
    assert "disk full" in printed
    assert not (small_disk / "out" / "manifest.json").exists()
    assert not list(small_disk.rglob(".put-*")), "nothing half written is left behind"
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    manifest = score(tmp_path / "in", output=f"{small_disk}/out", unit={"rows": 1000})
    assert manifest["rows_scored"] == 8000
    assert 0 < manifest["units_this_run"] < 8, "what was written before the disk was full stays done"
