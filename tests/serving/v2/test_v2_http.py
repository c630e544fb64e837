"""The Open Inference Protocol's routes over real replicas in this process: the scorer's answers, and every error."""

import gzip
import json
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from starlette.testclient import TestClient

from models.bundle import Bundle
from models.clean import clean
from models.heads import HeadSpec
from models.scorer import Scorer
from serving.auth import digest_of
from serving.v2.tensors import pack_bytes, unpack_bytes
from tests.serving.conftest import Start, entry
from tests.tiny import tiny_bundle

TEXTS = ["Good phone, fast delivery!", "质量很差", "Long " + "abc" * 40, "ok"]
INFER = "/v2/models/tiny/infer"
LENGTH = "inference-header-content-length"


def body_of(texts: list[str], **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}], **more}


def infer(client: TestClient, texts: list[str], **more: Any) -> dict[str, dict[str, Any]]:
    answer = client.post(INFER, json=body_of(texts, **more))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return {one["name"]: one for one in answer.json()["outputs"]}


def error(client: TestClient, path: str, content: Any, **headers: str) -> tuple[int, str]:
    sent = content if isinstance(content, bytes) else json.dumps(content).encode()
    answer = client.post(path, content=sent, headers=headers)
    assert set(answer.json()) == {"error"}, answer.text
    return answer.status_code, answer.json()["error"]


def expected(bundle: Bundle, texts: list[str] = TEXTS) -> dict[str, list[Any]]:
    tokens = bundle.tokeniser.encode([clean(text) for text in texts], with_offsets=True)
    found: dict[str, list[Any]] = Scorer(bundle, token_budget=512).score(tokens).to_pydict()
    return found


def test_scores_are_the_scorer_s_own(client: TestClient, tiny: Bundle) -> None:
    outputs, rows = infer(client, TEXTS), expected(tiny)
    assert outputs["sentiment"]["data"] == rows["sentiment"]
    assert outputs["stars"]["data"] == pytest.approx(rows["stars"], abs=1e-6)
    probs = np.stack([rows[f"prob_{label}"] for label in ("negative", "neutral", "positive")], axis=1)
    assert outputs["sentiment.prob"]["shape"] == [4, 3]
    assert outputs["sentiment.prob"]["data"] == pytest.approx(probs.ravel().tolist(), abs=1e-6)
    assert outputs["truncated"]["data"] == [False, False, True, False]
    assert outputs["lang"]["data"] == ["en", "zh", "en", "en"]
    rest = client.post("/v1/score", json={"texts": TEXTS}).json()["results"]
    assert outputs["sentiment"]["data"] == [one["scores"]["sentiment"] for one in rest]
    assert outputs["stars"]["data"] == pytest.approx([one["scores"]["stars"] for one in rest], abs=1e-6)
    assert outputs["num_tokens"]["data"] == [one["num_tokens"] for one in rest]


ALL_KINDS = (
    HeadSpec(name="sentiment", labels=("negative", "neutral", "positive")),
    HeadSpec(name="topics", kind="multi", labels=("battery", "price")),
    HeadSpec(name="aspects", kind="token", labels=("O", "B-aspect", "I-aspect")),
    HeadSpec(name="vector", kind="embedding", size=32),
)


def test_heads_of_every_kind(start: Start, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "all", heads=ALL_KINDS)
    outputs, rows = infer(start(entry(bundle)), TEXTS), expected(bundle)
    assert [json.loads(one) for one in outputs["topics"]["data"]] == rows["topics"]
    spans = [json.loads(one) for one in outputs["aspects"]["data"]]
    assert any(spans)
    for found, row in zip(spans, rows["aspects"], strict=True):
        assert [{**one, "prob": None} for one in found] == [{**one, "prob": None} for one in row]
    assert outputs["clean_text"]["data"] == [clean(text) for text in TEXTS]
    assert outputs["vector"]["shape"] == [4, 32]
    assert outputs["vector"]["data"] == pytest.approx(np.array(rows["vector"]).ravel().tolist(), abs=1e-6)


def test_binary_in_and_out(client: TestClient) -> None:
    raw = pack_bytes(text.encode() for text in TEXTS)
    tensor = {"name": "text", "shape": [4, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    asked = {"id": "a7", "inputs": [tensor], "parameters": {"binary_data_output": True}}
    asked["outputs"] = [
        {"name": "stars"},
        {"name": "sentiment"},
        {"name": "lang", "parameters": {"binary_data": False}},
    ]
    head = json.dumps(asked).encode()
    answer = client.post(INFER, content=head + raw, headers={LENGTH: str(len(head))})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream"), answer.text
    length = int(answer.headers[LENGTH])
    told, rest = json.loads(answer.content[:length]), answer.content[length:]
    plain = infer(client, TEXTS)
    stars, sentiment, lang = told.pop("outputs")
    assert told == {"model_name": "tiny", "model_version": "1", "id": "a7"}
    assert stars == {"name": "stars", "datatype": "FP32", "shape": [4], "parameters": {"binary_data_size": 16}}
    assert np.frombuffer(rest[:16], "<f4").tolist() == pytest.approx(plain["stars"]["data"], abs=1e-6)
    assert sentiment["parameters"] == {"binary_data_size": len(rest) - 16}
    assert [one.decode() for one in unpack_bytes(rest[16:], "")] == plain["sentiment"]["data"]
    assert lang["data"] == ["en", "zh", "en", "en"]


def test_only_the_outputs_asked_for_in_their_order(client: TestClient) -> None:
    assert list(infer(client, ["a"], outputs=[{"name": "num_tokens"}, {"name": "stars"}])) == ["num_tokens", "stars"]
    assert infer(client, ["a"], outputs=[{"name": "truncated"}]) == {
        "truncated": {"name": "truncated", "datatype": "BOOL", "shape": [1], "data": [False]}
    }
    assert list(infer(client, ["a"])) == [
        "sentiment",
        "sentiment.prob",
        "stars",
        "stars.prob",
        "lang",
        "num_tokens",
        "truncated",
    ]


def test_packed_bodies(client: TestClient) -> None:
    plain = json.dumps(body_of(["Good"])).encode()
    for encoding, packed in (("gzip", gzip.compress(plain)), ("deflate", zlib.compress(plain))):
        assert client.post(INFER, content=packed, headers={"content-encoding": encoding}).status_code == 200
    assert error(client, INFER, b"x", **{"content-encoding": "gzip"})[0] == 400
    assert error(client, INFER, b"x", **{"content-encoding": "br"})[0] == 415
    bomb = gzip.compress(b" " * (9 << 20))
    assert error(client, INFER, bomb, **{"content-encoding": "gzip"})[0] == 413


def without(name: str) -> dict[str, Any]:
    found = body_of(["a"])
    del found["inputs"][0][name]
    return found


def given(**changed: Any) -> dict[str, Any]:
    found = body_of(["a"])
    found["inputs"][0] |= changed
    return found


@pytest.mark.parametrize(
    ("sent", "status", "begins"),
    [
        (b"", 400, "body: "),
        (b"[]", 400, "body: "),
        (b'{"inputs": [' + b"[" * 5000, 400, "body: "),
        ({"inputs": []}, 400, "inputs: there must be one input, 'text', got 0"),
        ({"inputs": body_of(["a"])["inputs"] * 2}, 400, "inputs: there must be one"),
        (without("shape"), 400, "inputs.0.shape: "),
        (given(name="texts"), 400, "inputs[0].name: the only input is 'text', got 'texts'"),
        (given(datatype="INT32"), 400, "inputs[0].datatype: must be BYTES, got 'INT32'"),
        (given(shape=[]), 400, "inputs[0].shape: must be [N] or [N, 1], got []"),
        (given(shape=[-1]), 400, "inputs[0].shape: "),
        (given(shape=[1, 2]), 400, "inputs[0].shape: "),
        (given(shape=[1, 1, 1]), 400, "inputs[0].shape: "),
        (given(shape=[2]), 400, "inputs[0].shape: the shape [2] is of 2 elements, got 1"),
        (given(shape=[2**62]), 400, "inputs[0].shape: "),
        (given(data=[1]), 400, "inputs[0].data[0]: "),
        (given(shape=[0], data=[]), 400, "text: text must hold at least one text"),
        (given(data=[""]), 400, "text[0]: nothing remains"),
        (given(data=["x" * 40_000]), 413, "text[0]: "),
        (given(parameters={"shared_memory_region": "a"}), 400, "inputs[0].parameters.shared_memory_region: "),
        (body_of(["a"], parameters={"sequence_id": 7}), 400, "parameters.sequence_id: "),
        (body_of(["a"], parameters={"timeout": -1}), 400, "parameters.timeout: "),
        (body_of(["a"], parameters={"timeout": 10**20}), 400, "parameters.timeout: "),
        (body_of(["a"], parameters={"timeout": "1"}), 400, "parameters.timeout: "),
        (body_of(["a"], outputs=[{"name": "none"}]), 400, "outputs[0].name: must be among ['sentiment', "),
        (body_of(["a"], outputs=[{"name": "stars"}] * 2), 400, "outputs[1].name: stars is asked for twice"),
        (
            body_of(["a"], outputs=[{"name": "stars", "parameters": {"classification": 2}}]),
            400,
            "outputs[0].parameters.classification: ",
        ),
        (body_of(["a"] * 1025), 413, "text: text may hold at most 1024 texts, got 1025"),
    ],
)
def test_faults_of_a_request_are_named(client: TestClient, sent: Any, status: int, begins: str) -> None:
    found = error(client, INFER, sent)
    assert (found[0], found[1][: len(begins)]) == (status, begins)


def test_parameters_that_change_nothing_are_skipped(client: TestClient) -> None:
    parameters = {"priority": 1, "sequence_id": 0, "sequence_start": False, "timeout": 20_000_000, "more": "x"}
    assert infer(client, ["a"], parameters=parameters)["lang"]["data"] == ["en"]


def test_a_request_s_own_timeout(start: Start, tiny: Bundle) -> None:
    found = error(start(entry(tiny)), INFER, body_of(TEXTS * 100, parameters={"timeout": 1}))
    assert found == (504, "the answer wasn't ready within the request's timeout")


def test_giant_bodies_are_not_read(start: Start, tiny: Bundle) -> None:
    client = start(entry(tiny), limits={"max_body_bytes": 100})
    assert error(client, INFER, b" " * 101) == (413, "body: the body may have at most 100 bytes")


def test_unknown_models_versions_paths_and_methods(client: TestClient) -> None:
    for path in ("none/infer", "tiny/versions/9/infer"):
        assert error(client, f"/v2/models/{path}", body_of(["a"]))[0] == 404
    for path in ("models/none", "models/none/ready", "models/none/config", "models/tiny/versions/9", "nothing"):
        answer = client.get(f"/v2/{path}")
        assert (answer.status_code, set(answer.json())) == (404, {"error"})
    answer = client.get(INFER)
    assert (answer.status_code, set(answer.json())) == (405, {"error"})
    assert error(client, "/v2/repository/models/tiny/unload", {})[0] == 404


def test_what_is_told_of_the_service(client: TestClient) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    server = client.get("/v2").json()
    assert (server["name"], set(server)) == ("verbatim", {"name", "version", "extensions"})
    assert "binary_tensor_data" in server["extensions"]


def test_what_is_told_of_a_model(client: TestClient, tiny: Bundle) -> None:
    metadata = client.get("/v2/models/tiny").json()
    assert metadata == client.get("/v2/models/tiny/versions/1").json()
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert metadata["outputs"][:2] == [
        {"name": "sentiment", "datatype": "BYTES", "shape": [-1]},
        {"name": "sentiment.prob", "datatype": "FP32", "shape": [-1, 3]},
    ]
    assert client.get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": True}
    config = client.get("/v2/models/tiny/config").json()
    assert config["max_batch_size"] == 0
    assert config["parameters"]["bundle"] == {"string_value": str(tiny)}
    assert json.loads(config["parameters"]["labels.stars"]["string_value"]) == ["1", "2", "3", "4", "5"]
    assert config["output"][1] == {"name": "sentiment.prob", "data_type": "TYPE_FP32", "dims": [-1, 3]}
    for asked in ({}, {"ready": True}):
        assert client.post("/v2/repository/index", json=asked).json() == [
            {"name": "tiny", "version": "1", "state": "READY", "reason": ""}
        ]
    assert client.post("/v2/repository/index").status_code == 200
    assert error(client, "/v2/repository/index", {"ready": 1})[0] == 400


def test_versions_side_by_side(start: Start, tiny: Bundle, other: Bundle) -> None:
    client = start(entry(tiny, share=0.0), entry(other, version="2", share=1.0))
    by_share = client.post(INFER, json=body_of(TEXTS)).json()
    named = client.post("/v2/models/tiny/versions/1/infer", json=body_of(TEXTS)).json()
    assert (by_share["model_version"], named["model_version"]) == ("2", "1")
    for answer, bundle in ((by_share, other), (named, tiny)):
        stars = next(one["data"] for one in answer["outputs"] if one["name"] == "stars")
        assert stars == pytest.approx(expected(bundle)["stars"], abs=1e-6)
    assert client.get("/v2/models/tiny").json()["versions"] == ["1", "2"]
    parameters = client.get("/v2/models/tiny/config").json()["parameters"]
    assert parameters["bundle"]["string_value"] == str(other)


def test_overload_is_refused_with_a_time(start: Start, tiny: Bundle) -> None:
    client = start(entry(tiny), admission={"tokens_in_flight": 100})
    with client.service.admission.enter(100):  # type: ignore[attr-defined]
        answer = client.post(INFER, json=body_of(["a"]))
    assert (answer.status_code, answer.json()) == (429, {"error": "the service is full; try again later"})
    assert int(answer.headers["retry-after"]) >= 1
    assert client.service.admission.in_flight == 0  # type: ignore[attr-defined]


def test_keys_and_scopes(start: Start, tiny: Bundle, tmp_path: Path) -> None:
    keys = [
        {"name": "all", "sha256": digest_of("vb_all")},
        {"name": "big", "sha256": digest_of("vb_big"), "models": ["big"]},
        {"name": "slow", "sha256": digest_of("vb_slow"), "tokens_per_minute": 1},
    ]
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump({"keys": keys}), encoding="utf-8")
    client = start(entry(tiny), auth={"keys_file": str(tmp_path / "keys.yaml")})

    def statuses(key: str | None) -> list[int]:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        paths = ("/v2/health/live", "/v2/health/ready", "/v2", "/v2/models/tiny", "/v2/models/tiny/ready")
        found = [client.get(path, headers=headers).status_code for path in paths]
        return [*found, client.post(INFER, json=body_of(["Good phone"]), headers=headers).status_code]

    assert statuses(None) == statuses("vb_none") == [200, 200, 401, 401, 401, 401]
    assert statuses("vb_all") == [200] * 6
    assert statuses("vb_big") == [200, 200, 200, 403, 403, 403]
    assert [statuses("vb_slow")[-1], statuses("vb_slow")[-1]] == [200, 429]
    answer = client.post(INFER, content=b"not read")
    assert (answer.status_code, answer.headers["www-authenticate"], set(answer.json())) == (401, "Bearer", {"error"})
    headers = {"authorization": "Bearer vb_big"}
    assert client.post("/v2/repository/index", headers=headers).json() == []


def test_what_does_not_answer_is_not_ready(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no(*_: object) -> bool:
        return False

    monkeypatch.setattr(client.service, "_refresh", no)  # type: ignore[attr-defined]
    for path in ("health/ready", "models/tiny/ready"):
        answer = client.get(f"/v2/{path}")
        assert (answer.status_code, answer.json()["ready"]) == (400, False)
    (told,) = client.post("/v2/repository/index").json()
    assert (told["state"], told["reason"]) == ("UNAVAILABLE", "no replica answers")
    assert client.post("/v2/repository/index", json={"ready": True}).json() == []


def test_an_answer_of_a_bundle_that_is_being_changed(
    client: TestClient, tiny: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The facts are still of the old bundle when its deployment answers with the new one's columns."""
    infer(client, ["a"])
    score = client.service.score  # type: ignore[attr-defined]

    async def changed(*args: Any, **more: Any) -> Any:
        scored = await score(*args, **more)
        object.__setattr__(scored.reply, "bundle", "tiny@new")
        kept = [name for name in scored.reply.table.column_names if name != "stars"]
        object.__setattr__(scored.reply, "table", scored.reply.table.select(kept))
        return scored

    monkeypatch.setattr(client.service, "score", changed)  # type: ignore[attr-defined]
    answer = client.post(INFER, json=body_of(["a"]))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert infer(client, ["a"], outputs=[{"name": "sentiment"}])["sentiment"]["shape"] == [1]


def test_an_unforeseen_error_is_told_without_its_words(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a customer's text")

    monkeypatch.setattr(client.service, "score", fail)  # type: ignore[attr-defined]
    status, told = error(client, INFER, body_of(["a"]))
    assert status == 500
    assert "customer" not in told


PIECES = [
    b"\x00",
    b"\xff",
    b'"',
    b"\\ud800",
    b"NaN",
    b"-1e999",
    b"[",
    b"}",
    b"9" * 400,
    b"null",
    b"-1",
    b'"data":',
    b'"parameters":{"binary_data_size":3},',
    b'"shape":[1,1],',
    b"{}",
    b"\x01\x00\x00\x00",
]


def test_odd_bodies_never_give_a_500(client: TestClient) -> None:
    rng = random.Random(0)  # noqa: S311
    raw = pack_bytes([b"good", b"bad"])
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    plain = json.dumps(body_of(["good", "bad"], outputs=[{"name": "stars"}], id="7")).encode()
    statuses = set()
    for _ in range(1000):
        seed, length = rng.choice([(plain, None), (head + raw, len(head))])
        sent = bytearray(seed)
        for _ in range(rng.randint(0, 3)):
            place = rng.randrange(len(sent) + 1)
            sent[place : place + rng.randint(0, 6)] = rng.choice(PIECES)
        headers = {} if length is None else {LENGTH: str(length + rng.choice([0, 0, 0, 1, -3, len(sent) - len(seed)]))}
        answer = client.post(INFER, content=bytes(sent), headers=headers)
        statuses.add(answer.status_code)
        assert answer.status_code in (200, 400, 413), bytes(sent)
        assert answer.status_code == 200 or set(answer.json()) == {"error"}
    assert {200, 400} <= statuses
