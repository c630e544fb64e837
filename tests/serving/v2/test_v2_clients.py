"""Triton's clients, unmodified and in their own environment and process, at a whole service with keys and little room.

The environment is `.venv-clients` (`make clients`). Without it these tests are skipped; in CI it is made, or they fail.
"""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import yaml

from models.bundle import Bundle
from models.clean import clean
from models.heads import HeadSpec
from models.scorer import Scorer
from serving.auth import digest_of
from tests.serving.conftest import entry
from tests.serving.started import ROOT, free_port, started
from tests.tiny import tiny_bundle

pytestmark = pytest.mark.ray

PYTHON = ROOT / ".venv-clients/bin/python"
KEY = "vb_clients"
TEXTS = ["Good phone, fast delivery!", "质量很差", "Long " + "abc" * 40, "ok", "<p>Not   bad</p> &amp; cheap"]
HEADS = (
    HeadSpec(name="sentiment", labels=("negative", "neutral", "positive")),
    HeadSpec(name="stars", kind="ordinal", labels=("1", "2", "3", "4", "5")),
    HeadSpec(name="topics", kind="multi", labels=("battery", "price")),
    HeadSpec(name="aspects", kind="token", labels=("O", "B-aspect", "I-aspect")),
    HeadSpec(name="vector", kind="embedding", size=32),
)
ROWS = "outputs[0].name: must be among ['sentiment', 'sentiment.prob', 'stars', "


@dataclass(frozen=True)
class Running:
    """A service, and the model that it serves."""

    http: str
    grpc: str
    bundle: Bundle


@pytest.fixture(scope="module")
def clients() -> Path:
    """Python of the clients' environment."""
    if not PYTHON.exists():
        if os.environ.get("CI") != "true":
            pytest.skip("no .venv-clients here: make clients")
        subprocess.run(["make", "clients"], cwd=ROOT, check=True)
    return PYTHON


@pytest.fixture(scope="module")
def service(clients: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder, port = tmp_path_factory.mktemp("v2"), free_port()
    bundle = tiny_bundle(folder / "tiny", heads=HEADS)
    keys = [{"name": "clients", "sha256": digest_of(KEY)}]
    (folder / "keys.yaml").write_text(yaml.safe_dump({"keys": keys}), encoding="utf-8")
    settings = {
        "bundles": [entry(bundle, num_cpus=0.5)],
        "auth": {"keys_file": str(folder / "keys.yaml")},
        "grpc": {"port": port},
        "limits": {"max_body_bytes": 300_000},
        "admission": {"tokens_in_flight": 35_000},
    }
    with started(settings, folder) as url:
        yield Running(url, f"127.0.0.1:{port}", bundle)


def run(python: Path, script: Path, *arguments: str, texts: list[str] | None = None, **env: str) -> str:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    done = subprocess.run(
        [python, str(script), *arguments],
        input=json.dumps(texts),
        env={**kept, "NO_PROXY": "127.0.0.1", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def found(clients: Path, service: Running) -> dict[str, Any]:
    """What both clients found."""
    script = Path(__file__).with_name("triton_suite.py")
    answer: dict[str, Any] = json.loads(
        run(clients, script, service.http.removeprefix("http://"), service.grpc, KEY, texts=TEXTS)
    )
    return answer


@pytest.fixture(scope="module")
def expected(service: Running) -> dict[str, Any]:
    tokens = service.bundle.tokeniser.encode([clean(text) for text in TEXTS], with_offsets=True)
    rows = Scorer(service.bundle, token_budget=512).score(tokens).to_pydict()
    return {**rows, "num_tokens": tokens.lengths.tolist(), "truncated": tokens.truncated.tolist()}


PROTOCOLS = pytest.mark.parametrize("protocol", ["http", "grpc"])


@PROTOCOLS
def test_health_metadata_configuration_and_index(found: dict[str, Any], protocol: str) -> None:
    probs = [[f"{name}.prob", "FP32"] for name in ("sentiment", "stars", "topics")]
    assert found[protocol]["told"] == {
        "live": True,
        "ready": True,
        "model_ready": True,
        "version_ready": True,
        "server": "verbatim",
        "inputs": [["text", "BYTES"]],
        "outputs": [
            ["sentiment", "BYTES"],
            probs[0],
            ["stars", "FP32"],
            probs[1],
            ["topics", "BYTES"],
            probs[2],
            ["aspects", "BYTES"],
            ["vector", "FP32"],
            ["lang", "BYTES"],
            ["num_tokens", "INT32"],
            ["truncated", "BOOL"],
            ["clean_text", "BYTES"],
        ],
        "config": "tiny",
        "index": ["tiny"],
    }


@PROTOCOLS
def test_scores_are_the_scorer_s_own(found: dict[str, Any], expected: dict[str, Any], protocol: str) -> None:
    answers = found[protocol]["answers"]
    assert answers["id"] == "a7"
    for name in ("sentiment", "num_tokens", "truncated"):
        assert answers[name] == expected[name], name
    assert answers["clean_text"] == [clean(text) for text in TEXTS]
    assert [json.loads(one) for one in answers["topics"]] == expected["topics"]
    spans = [[(one["start"], one["end"], one["label"]) for one in json.loads(text)] for text in answers["aspects"]]
    assert spans == [[(one["start"], one["end"], one["label"]) for one in row] for row in expected["aspects"]]
    np.testing.assert_allclose(answers["stars"], expected["stars"], atol=1e-6)
    np.testing.assert_allclose(answers["vector"], expected["vector"], atol=1e-6)
    columns = [
        ("sentiment", [f"prob_{label}" for label in HEADS[0].labels]),
        ("stars", [f"prob_stars_{label}" for label in HEADS[1].labels]),
        ("topics", [f"prob_topics_{label}" for label in HEADS[2].labels]),
    ]
    for head, names in columns:
        probs = np.stack([expected[name] for name in names], axis=1)
        np.testing.assert_allclose(answers[f"{head}.prob"], probs, atol=1e-6)


@PROTOCOLS
def test_scores_are_those_of_rest(found: dict[str, Any], service: Running, protocol: str) -> None:
    async def ask() -> list[dict[str, Any]]:
        headers = {"authorization": f"Bearer {KEY}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(f"{service.http}/v1/score", json={"texts": TEXTS}) as answer,
        ):
            body = await answer.json()
            return [one["scores"] for one in body["results"]]

    answers, rest = found[protocol]["answers"], asyncio.run(ask())
    assert answers["sentiment"] == [one["sentiment"] for one in rest]
    np.testing.assert_allclose(answers["stars"], [one["stars"] for one in rest], atol=1e-6)
    probs = [[one[f"prob_{label}"] for label in HEADS[0].labels] for one in rest]
    np.testing.assert_allclose(answers["sentiment.prob"], probs, atol=1e-6)


def test_json_columns_and_compression_change_nothing(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for stars in (found["http"]["json"], found["http"]["packed"], found["grpc"]["packed"]):
        np.testing.assert_allclose(stars, expected["stars"], atol=1e-6)


@PROTOCOLS
@pytest.mark.parametrize(
    ("fault", "right", "begins"),
    [
        ("unknown model", ("404", "NOT_FOUND"), "model: no model of that name; served are ['tiny']"),
        ("unknown version", ("404", "NOT_FOUND"), "version: tiny has no such version; it has ['1']"),
        ("unknown output", ("400", "INVALID_ARGUMENT"), ROWS),
        ("unknown input", ("400", "INVALID_ARGUMENT"), "inputs[0].name: the only input is 'text', got 'texts'"),
        ("wrong shape", ("400", "INVALID_ARGUMENT"), "inputs[0].shape: must be [N] or [N, 1], got [1, 2]"),
        ("wrong type", ("400", "INVALID_ARGUMENT"), "inputs[0].datatype: must be BYTES, got 'FP32'"),
        ("not UTF-8", ("400", "INVALID_ARGUMENT"), "inputs[0].data[0]: an element of BYTES must be UTF-8"),
        ("no texts", ("400", "INVALID_ARGUMENT"), "text: text must hold at least one text"),
        ("empty text", ("400", "INVALID_ARGUMENT"), "text[1]: nothing remains of the text"),
        ("giant text", ("413", "INVALID_ARGUMENT"), "text[0]: a text may have at most 32768 characters"),
        ("giant body", ("413", "RESOURCE_EXHAUSTED"), ""),
        ("too many texts", ("413", "INVALID_ARGUMENT"), "text: text may hold at most 1024 texts, got 1025"),
        ("timeout", ("504", "DEADLINE_EXCEEDED"), "the answer wasn't ready within the request's timeout"),
        ("no key", ("401", "UNAUTHENTICATED"), "a valid key is needed"),
        ("wrong key", ("401", "UNAUTHENTICATED"), "a valid key is needed"),
        ("statistics", ("404", "UNIMPLEMENTED"), ""),
        ("unload", ("404", "UNIMPLEMENTED"), ""),
    ],
)
def test_refusals(found: dict[str, Any], protocol: str, fault: str, right: tuple[str, str], begins: str) -> None:
    status, words = found[protocol]["refusals"][fault]
    assert status == (right[0] if protocol == "http" else f"StatusCode.{right[1]}")
    assert words.startswith(begins)


@PROTOCOLS
def test_overload_is_refused_and_nothing_is_lost(found: dict[str, Any], protocol: str) -> None:
    statuses = found[protocol]["overload"]
    assert len(statuses) == 16
    assert set(statuses) == {"200", "429" if protocol == "http" else "StatusCode.RESOURCE_EXHAUSTED"}


def test_a_stream_answers_in_order(found: dict[str, Any]) -> None:
    first, refusal, last = found["grpc"]["streamed"]
    assert (first, last) == (["1", len(TEXTS)], ["3", 1])
    assert "no model of that name" in refusal


@PROTOCOLS
def test_the_examples_run(clients: Path, service: Running, protocol: str) -> None:
    address = service.http.removeprefix("http://") if protocol == "http" else service.grpc
    script = ROOT / f"serving/examples/open_inference_{protocol}.py"
    lines = run(clients, script, address, VERBATIM_MODEL="tiny", VERBATIM_KEY=KEY).splitlines()
    assert [line.rpartition("] ")[2] for line in lines] == ["Great phone, fast delivery!", "电池很差"]
    assert all(line.split()[0] in HEADS[0].labels for line in lines)
