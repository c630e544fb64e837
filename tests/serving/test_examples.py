"""Every documented example runs as it stands against a whole service; there is one for each route."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.conftest import LIVE_KEY, ROOT, entry_named, settings_of
from tests.serving.double import double_app

EXAMPLES = sorted(path.stem for path in (ROOT / "serving" / "examples").glob("[a-z]*.py"))
REST = [name for name in EXAMPLES if not name.startswith("open_inference")]


def run(live: str, name: str) -> list[str]:
    env = {**os.environ, "VERBATIM_URL": live, "VERBATIM_KEY": LIVE_KEY, "VERBATIM_MODEL": "aspects"}
    command = [sys.executable, "-m", f"serving.examples.{name}"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_every_route_has_an_example(tmp_path: Path) -> None:
    app = double_app(settings_of(entry_named("starter"), jobs={"store": str(tmp_path)}))
    shown = {
        *("/v1/score", "/v1/embeddings", "/v1/explain", "/v1/models", "/healthz", "/readyz", "/metrics"),
        *("/v1/jobs", "/v1/jobs/{id}", "/v1/jobs/{id}/results"),
    }
    assert set(app.openapi()["paths"]) == shown
    assert REST == ["embeddings", "explain", "job", "models", "operate", "score", "stream"]


@pytest.mark.ray
def test_score(live: str) -> None:
    first, second = (line.split() for line in run(live, "score"))
    assert first[0] == "None"
    assert second[:2] == ["r-2", "positive"]
    assert 1 <= float(second[2]) <= 5


@pytest.mark.ray
def test_stream(live: str) -> None:
    lines = run(live, "stream")
    assert [line.split()[0] for line in lines] == [str(number) for number in range(300)]
    assert {line.split()[1] for line in lines} <= {"negative", "neutral", "positive"}


@pytest.mark.ray
def test_embeddings(live: str) -> None:
    lines = run(live, "embeddings")
    assert [line.rsplit(" ", 1)[0] for line in lines] == ["电池太差", "Lovely colour"]


@pytest.mark.ray
def test_explain(live: str) -> None:
    column, *words = run(live, "explain")
    assert column.startswith("prob_")
    assert len(words) == 5
    effects = [abs(float(line.split()[0])) for line in words]
    assert effects == sorted(effects, reverse=True)


@pytest.mark.ray
def test_models(live: str) -> None:
    starter, aspects = run(live, "models")
    assert starter.startswith("starter 1 starter@")
    assert "['sentiment', 'stars', 'topics', " in starter
    assert aspects.endswith("['aspect', 'vector']")


@pytest.mark.ray
def test_operate(live: str) -> None:
    assert run(live, "operate") == [
        "/healthz ok",
        "/readyz ready",
        "verbatim_tokens_in_flight 0.0",
        "verbatim_tokens_in_flight_limit 131072.0",
    ]


@pytest.mark.ray
def test_a_job_on_the_cluster(live: str) -> None:
    """The whole way: submitted to Ray's job service, scored by the job, fetched."""
    state, *results = run(live, "job")
    assert state == "succeeded 2"
    assert [line.split()[0] for line in results] == ["0", "1", "2"]
    assert [line.split()[1] for line in results[1:]] == ["negative", "empty_text"]
