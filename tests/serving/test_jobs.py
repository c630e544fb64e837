"""Asynchronous jobs over a cluster's double: the command that is run, who may do what, and the results of a list."""

import json
import shlex
import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from starlette.testclient import TestClient

from cluster.config import load_config
from jobs.score.settings import ScoreSettings
from serving.auth import digest_of
from serving.jobs.cluster import RayCluster
from serving.jobs.command import entrypoint
from tests.serving.conftest import entry_named, settings_of
from tests.serving.double import DoubleCluster, double_app

HOSTILE = "s3://c/$(touch owned)`id`'\"; rm -rf ~ \\n: [x, {y: null}] # 质😀\x85\u2028&"
CORPUS = {"input": "s3://c/in/*.jsonl", "output": "s3://c/out", "columns": {"id": "review", "text": "body", "s": "sku"}}
KEYS = [
    {"name": "one", "sha256": digest_of("vb_one")},
    {"name": "two", "sha256": digest_of("vb_two")},
    {"name": "slow", "sha256": digest_of("vb_slow"), "tokens_per_minute": 10},
    {"name": "big", "sha256": digest_of("vb_big"), "models": ["big"]},
]


@pytest.fixture
def cluster() -> DoubleCluster:
    return DoubleCluster()


@pytest.fixture
def client(tmp_path: Path, cluster: DoubleCluster) -> TestClient:
    jobs = {"store": str(tmp_path / "jobs"), "allow": ["s3://c", "s3://d/reviews/"]}
    return TestClient(double_app(settings_of(entry_named("starter", precision="fp32"), jobs=jobs), cluster))


def submit(client: TestClient, body: dict[str, Any], key: str | None = None) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json=body, headers=bearer(key))
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    return job


def bearer(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}


def settings_in(command: str) -> ScoreSettings:
    """What the job reads from a command, as a shell takes it apart."""
    python, dash_m, module, config, *overrides = shlex.split(command)
    assert (python, dash_m, module) == ("python", "-m", "jobs.score")
    return load_config(config, overrides, ScoreSettings)


def test_nothing_in_a_value_reaches_the_shell_or_the_yaml(tmp_path: Path) -> None:
    columns = {"id": HOSTILE, "text": "[a]", "x.y": "1"}
    command = entrypoint({"input": HOSTILE, "output": HOSTILE, "bundle": "null", "columns": columns})
    read = settings_in(command)
    assert (read.input, read.output, read.bundle) == (HOSTILE, HOSTILE, "null")
    assert read.columns == columns
    shown = subprocess.run(
        ["bash", "-c", command.replace("python -m jobs.score", "printf %s\\\\n", 1)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.splitlines()[0] == "/dev/null"
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_is_scored_by_the_job_with_the_served_bundle(client: TestClient, cluster: DoubleCluster) -> None:
    job = submit(client, {"corpus": CORPUS})
    assert (job["state"], job["num_texts"], job["output"], job["manifest"]) == ("queued", None, "s3://c/out", None)
    settings = settings_in(cluster.submitted[job["id"]])
    assert (settings.input, settings.output, settings.columns) == (CORPUS["input"], "s3://c/out", CORPUS["columns"])
    assert (settings.bundle, settings.precision, settings.format) == ("starter", "fp32", "auto")
    answer = client.get(f"/v1/jobs/{job['id']}/results")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    ("place", "allowed"),
    [
        ("s3://c", True),
        ("s3://c/", True),
        ("s3://c/a/b", True),
        ("s3://d/reviews", True),
        ("s3://d/reviews/2026/*.parquet", True),
        ("s3://d/reviews2/x", False),
        ("s3://d", False),
        ("s3://cc/x", False),
        ("s3://c/../d/x", False),
        ("s3://c/%2e%2e/d", False),
        ("s3://c/a::s3://d/x", False),
        ("s3://c/a\\..\\b", False),
        ("s3://c/a\nb", False),
        ("S3://c/a", False),
        ("/etc/passwd", False),
        ("file:///etc/passwd", False),
    ],
)
def test_only_allowed_places(client: TestClient, cluster: DoubleCluster, place: str, allowed: bool) -> None:
    for field in ("input", "output"):
        answer = client.post("/v1/jobs", json={"corpus": CORPUS | {field: place}})
        assert answer.status_code == (202 if allowed else 403), answer.text
        if not allowed:
            assert answer.json()["error"]["field"] == f"corpus.{field}"
    assert bool(cluster.submitted) is allowed


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, "body"),
        ({"texts": []}, 422, "body"),
        ({"texts": ["a"], "corpus": CORPUS}, 422, "body"),
        ({"corpus": CORPUS | {"columns": {"id": "a"}}}, 422, "corpus.columns"),
        ({"corpus": CORPUS | {"bundle": "x"}}, 422, "corpus.bundle"),
        ({"texts": ["a"], "model": "none"}, 404, "model"),
    ],
)
def test_faults_are_named(client: TestClient, body: dict[str, Any], status: int, field: str) -> None:
    answer = client.post("/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field)


def test_a_list_is_kept_masked_and_comes_back_in_its_order(
    client: TestClient, cluster: DoubleCluster, tmp_path: Path
) -> None:
    job = submit(client, {"texts": ["call 13812345678", {"id": "x", "text": "good"}, {"id": "x", "text": ""}]})
    settings = settings_in(cluster.submitted[job["id"]])
    rows = [json.loads(line) for line in Path(settings.input).read_text(encoding="utf-8").splitlines()]
    assert rows == [
        {"place": 0, "id": None, "text": "call [PHONE]"},
        {"place": 1, "id": "x", "text": "good"},
        {"place": 2, "id": "x", "text": ""},
    ]
    assert settings.columns == {"id": "place", "text": "text", "client_id": "id"}
    assert settings.max_rejected_share == 1

    write_scores(Path(settings.output))
    cluster.state = "running"
    refused = client.get(f"/v1/jobs/{job['id']}/results")
    assert (refused.status_code, "running" in refused.json()["error"]["message"]) == (409, True)
    cluster.state = "succeeded"
    found = client.get(f"/v1/jobs/{job['id']}").json()
    assert (found["state"], found["output"], found["manifest"]) == ("succeeded", None, {"rows_scored": 2})
    results = client.get(f"/v1/jobs/{job['id']}/results")
    assert results.headers["content-type"] == "application/x-ndjson"
    facts = {"lang": "en", "num_tokens": 4, "truncated": False}
    assert [json.loads(line) for line in results.text.splitlines()] == [
        {"place": 0, **facts, "scores": {"sentiment": "negative"}},
        {"place": 1, "id": "x", **facts, "scores": {"sentiment": "positive"}},
        {"place": 2, "error": {"code": "empty_text", "message": "empty_text", "field": "texts.2"}},
    ]
    assert str(tmp_path) not in results.text + json.dumps(found)


def write_scores(output: Path) -> None:
    """What the job would leave."""
    facts = {"lang": "en", "num_tokens": 4, "truncated": False}
    scores = [
        {"id": "1", "sentiment": "positive", **facts, "client_id": "x"},
        {"id": "0", "sentiment": "negative", **facts, "client_id": None},
    ]
    for folder, rows in (("scores", scores), ("rejected", [{"id": "2", "reason": "empty_text", "detail": None}])):
        (output / folder).mkdir(parents=True)
        sink = BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        (output / folder / "a.parquet").write_bytes(sink.getvalue())
    places = {"input": str(output), "output": str(output), "scores": "scores", "rejected": "rejected"}
    manifest = places | {"rows_scored": 2}
    (output / "manifest.json").write_text(json.dumps(manifest))


def test_how_a_run_failed_is_told_by_its_exit_code(client: TestClient, cluster: DoubleCluster) -> None:
    job = submit(client, {"corpus": CORPUS})
    cluster.state = "failed"
    told = []
    for cluster.exit_code in (1, 2, None):
        told.append(client.get(f"/v1/jobs/{job['id']}").json()["message"])
    assert told == [
        "the run isn't whole or rejected too many rows",
        "something that was given can't be used",
        "the run was cut off",
    ]


def test_cancelling(client: TestClient, cluster: DoubleCluster) -> None:
    job = submit(client, {"texts": ["a"]})
    assert client.delete(f"/v1/jobs/{job['id']}").json()["state"] == "cancelled"
    assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == "cancelled"
    cluster.state = "succeeded"
    write_scores(Path(settings_in(cluster.submitted[job["id"]]).output))
    assert client.delete(f"/v1/jobs/{job['id']}").json()["state"] == "succeeded"


@pytest.mark.parametrize("id", ["x", "job-", "job-" + "0" * 32, "job-" + "0" * 31 + "/", "..", "job-%2e%2e"])
def test_unknown_jobs(client: TestClient, id: str) -> None:
    for answer in (client.get(f"/v1/jobs/{id}"), client.delete(f"/v1/jobs/{id}"), client.get(f"/v1/jobs/{id}/results")):
        assert answer.status_code in (404, 405)


def test_keys_own_their_jobs(tmp_path: Path, cluster: DoubleCluster) -> None:
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump({"keys": KEYS}), encoding="utf-8")
    jobs = {"store": str(tmp_path / "jobs"), "allow": ["s3://c"]}
    auth = {"keys_file": str(tmp_path / "keys.yaml")}
    client = TestClient(double_app(settings_of(entry_named("starter"), jobs=jobs, auth=auth), cluster))
    assert client.post("/v1/jobs", json={"texts": ["a"]}).status_code == 401
    assert client.post("/v1/jobs", json={"texts": ["a"]}, headers=bearer("vb_big")).status_code == 403
    corpus = client.post("/v1/jobs", json={"corpus": CORPUS}, headers=bearer("vb_slow"))
    assert (corpus.status_code, corpus.json()["error"]["field"]) == (403, "corpus")
    spent = [client.post("/v1/jobs", json={"texts": ["word " * 50]}, headers=bearer("vb_slow")) for _ in range(2)]
    assert [answer.status_code for answer in spent] == [202, 429]
    assert int(spent[1].headers["retry-after"]) >= 1
    job = submit(client, {"texts": ["a"]}, "vb_one")
    for key, status in (("vb_one", 200), ("vb_two", 404), (None, 401)):
        assert client.get(f"/v1/jobs/{job['id']}", headers=bearer(key)).status_code == status
        assert client.delete(f"/v1/jobs/{job['id']}", headers=bearer(key)).status_code == status


def test_without_settings_there_are_none() -> None:
    client = TestClient(double_app(settings_of(entry_named("starter"))))
    for answer in (client.post("/v1/jobs", json={"texts": ["a"]}), client.get("/v1/jobs/job-1")):
        assert answer.status_code == 404
        assert "jobs: in the settings" in answer.json()["error"]["message"]


def test_a_cluster_or_a_store_that_does_not_answer_is_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise ConnectionError("with an address in it")

    monkeypatch.setattr(RayCluster, "_client", refuse)
    (tmp_path / "file").write_text("not a folder")
    for store, about in ((tmp_path / "jobs", "cluster"), (tmp_path / "file" / "jobs", "store")):
        settings = settings_of(entry_named("starter"), jobs={"store": str(store)})
        client = TestClient(double_app(settings, RayCluster("http://127.0.0.1:1")))
        answer = client.post("/v1/jobs", json={"texts": ["a"]})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert about in answer.json()["error"]["message"]
        assert "address" not in answer.text
