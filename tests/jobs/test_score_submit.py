"""The same command as a bulk job: submitted to a running cluster, from S3 to S3, with the scores of a local run."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import s3fs

from tests.jobs.conftest import ROOT, Score, free_port, read_scores, wait_for_port
from tests.jobs.test_score_job import ROWS

pytestmark = pytest.mark.ray


@pytest.fixture
def dashboard(s3_bucket: str, tiny: Path, tmp_path: Path) -> Iterator[str]:
    """Address to submit jobs to; the cluster has the S3 environment, as an operator would set it."""
    port, dashboard_port, agent_port = free_port(), free_port(), free_port()
    binaries = Path(sys.executable).parent
    command = [str(binaries / "ray"), "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1"]
    command += ["--num-cpus=2", f"--dashboard-port={dashboard_port}", f"--dashboard-agent-listen-port={agent_port}"]
    command += ["--disable-usage-stats", "--object-store-memory=500000000"]
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    with (tmp_path / "head.log").open("w") as log:
        env = {**os.environ, "PATH": path}
        head = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=env)
    try:
        wait_for_port(head, dashboard_port)
        yield f"http://127.0.0.1:{dashboard_port}"
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait(timeout=60)


def put_corpus(folder: Path, bucket: str, endpoint: str) -> None:
    client = boto3.client("s3", endpoint_url=endpoint)
    for number, lang in enumerate(("en", "zh")):
        path = folder / "corpus" / f"lang={lang}" / "part.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(ROWS[number::2]), path, row_group_size=40)
        client.upload_file(str(path), bucket.removeprefix("s3://"), f"corpus/lang={lang}/part.parquet")
    client.close()


@pytest.fixture
def corpus(tmp_path: Path, s3_bucket: str, s3_endpoint: str) -> Path:
    """The corpus in a folder; the same files lie in the bucket."""
    put_corpus(tmp_path, s3_bucket, s3_endpoint)
    return tmp_path / "corpus"


def test_submitted_from_s3_to_s3(dashboard: str, s3_bucket: str, tiny: Path, corpus: Path, score: Score) -> None:
    options = [f"input={s3_bucket}/corpus", f"output={s3_bucket}/out", f"bundle={tiny}", "unit.rows=50"]
    options += ["precision=fp32", "columns.folder_lang=lang"]
    command = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", dashboard, "--working-dir", "."]
    command += ["--", "python", "-m", "jobs.score", "jobs/score.yaml", *options]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "rows in                 300" in first.stdout
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert "nothing to do: all 6 units" in again.stdout, again.stdout + again.stderr

    files = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"], skip_instance_cache=True)
    bucket = s3_bucket.removeprefix("s3://")
    assert files.exists(f"{bucket}/out/manifest.json")
    found = files.glob(f"{bucket}/out/scores/**/*.parquet")
    remote = pyarrow.dataset.dataset(found, filesystem=files, format="parquet").to_table().sort_by("id")
    columns = {"id": "id", "text": "text", "folder_lang": "lang"}
    local = read_scores(score(corpus, columns=columns, token_budget=4096))
    assert remote.equals(local)
    assert local["folder_lang"].to_pylist() == [("en", "zh")[i % 2] for i in range(300)]
