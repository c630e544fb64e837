"""gRPC over a real socket, before real replicas in this process: answers, statuses, trailing metadata, the stream."""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import yaml
from starlette.testclient import TestClient

from models.bundle import Bundle
from models.clean import clean
from models.scorer import Scorer
from serving.auth import digest_of
from serving.v2.protos import SERVICE, message
from serving.v2.tensors import pack_bytes, unpack_bytes
from tests.serving.conftest import Start, entry
from tests.serving.started import free_port

TEXTS = ["Good phone, fast delivery!", "质量很差", "Long " + "abc" * 40, "ok"]
REQUEST = message("ModelInferRequest")


class Client:
    """A channel to the service's gRPC port."""

    def __init__(self, http: TestClient, port: int) -> None:
        self.http, self.channel = http, grpc.insecure_channel(f"127.0.0.1:{port}")

    def call(self, method: str, sent: bytes = b"", timeout: float = 20, **metadata: str) -> Any:
        """The answer of a method, read as its response."""
        call = self.channel.unary_unary(f"/{SERVICE}/{method}")
        answer = call(sent, timeout=timeout, metadata=tuple(metadata.items()))
        return message(f"{method}Response").FromString(answer)

    def refused(self, method: str, sent: bytes = b"", **more: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
        with pytest.raises(grpc.RpcError) as caught:
            self.call(method, sent, **more)
        trailing = {one.key: one.value for one in caught.value.trailing_metadata()}
        return caught.value.code(), caught.value.details(), trailing

    def stream(self, *sent: bytes) -> list[Any]:
        answers = self.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(iter(sent), timeout=20)
        return [message("ModelStreamInferResponse").FromString(one) for one in answers]


@pytest.fixture
def begin(start: Start) -> Iterator[Any]:
    """`begin(entry(tiny), limits={…})` gives a client of that service."""
    begun: list[Client] = []

    def connect(*bundles: dict[str, Any], **more: Any) -> Client:
        port = free_port()
        begun.append(Client(start(*bundles, grpc={"port": port}, **more), port))
        return begun[-1]

    yield connect
    for client in begun:
        client.channel.close()


@pytest.fixture
def client(begin: Any, tiny: Bundle) -> Client:
    found: Client = begin(entry(tiny))
    return found


def asking(texts: list[str], model: str = "tiny", **more: Any) -> bytes:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [len(texts)]}
    raw = [pack_bytes(text.encode() for text in texts)]
    sent: bytes = REQUEST(
        **{"model_name": model, "inputs": [tensor], "raw_input_contents": raw, **more}
    ).SerializeToString()
    return sent


def read(answer: Any) -> dict[str, Any]:
    types = {"FP32": "<f4", "INT32": "<i4", "BOOL": "?"}
    found = {}
    for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        if tensor.datatype == "BYTES":
            found[tensor.name] = [one.decode() for one in unpack_bytes(raw, "")]
        else:
            found[tensor.name] = np.frombuffer(raw, types[tensor.datatype]).reshape(tensor.shape).tolist()
    return found


def test_scores_are_the_scorer_s_own(client: Client, tiny: Bundle) -> None:
    rows = Scorer(tiny, token_budget=512).score(tiny.tokeniser.encode([clean(text) for text in TEXTS])).to_pydict()
    answer = client.call("ModelInfer", asking(TEXTS, id="a7"))
    assert (answer.model_name, answer.model_version, answer.id) == ("tiny", "1", "a7")
    found = read(answer)
    assert found["sentiment"] == rows["sentiment"]
    assert found["stars"] == pytest.approx(rows["stars"], abs=1e-6)
    probs = np.stack([rows[f"prob_{label}"] for label in ("negative", "neutral", "positive")], axis=1)
    np.testing.assert_allclose(found["sentiment.prob"], probs, atol=1e-6)
    assert found["truncated"] == [False, False, True, False]


def test_typed_contents_and_outputs_by_name(client: Client) -> None:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2, 1], "contents": {"bytes_contents": [b"Good", b"bad"]}}
    wanted = [{"name": "num_tokens"}, {"name": "lang"}]
    found = read(client.call("ModelInfer", asking([], inputs=[tensor], raw_input_contents=[], outputs=wanted)))
    assert found == {"num_tokens": [6, 5], "lang": ["en", "en"]}


def test_what_is_told(client: Client, tiny: Bundle) -> None:
    assert client.call("ServerLive").live
    assert client.call("ServerReady").ready
    assert client.call("ServerMetadata").name == "verbatim"
    named = message("ModelReadyRequest")(name="tiny", version="1").SerializeToString()
    assert client.call("ModelReady", named).ready
    metadata = client.call("ModelMetadata", named)
    assert [list(one.shape) for one in metadata.outputs][:2] == [[-1], [-1, 3]]
    config = client.call("ModelConfig", named).config
    assert config.parameters["bundle"].string_value == str(tiny)
    assert (config.output[1].name, config.output[1].data_type) == ("sentiment.prob", 11)
    (listed,) = client.call("RepositoryIndex").models
    assert (listed.name, listed.version, listed.state) == ("tiny", "1", "READY")


def test_faults_have_triton_s_statuses(client: Client) -> None:
    code = grpc.StatusCode
    unknown = message("ModelReadyRequest")(name="none").SerializeToString()
    tensor = {"name": "text", "datatype": "INT32", "shape": [1]}
    for method, sent, status, begins in [
        ("ModelInfer", asking(["a"], "none"), code.NOT_FOUND, "model: no model of that name"),
        ("ModelInfer", asking(["a"], model_version="9"), code.NOT_FOUND, "version: tiny has no such version"),
        ("ModelReady", unknown, code.NOT_FOUND, "model: "),
        ("ModelMetadata", unknown, code.NOT_FOUND, "model: "),
        ("ModelConfig", unknown, code.NOT_FOUND, "model: "),
        ("ModelInfer", asking(["a"], inputs=[tensor]), code.INVALID_ARGUMENT, "inputs[0].datatype: must be BYTES"),
        ("ModelInfer", asking(["a"], outputs=[{"name": "x"}]), code.INVALID_ARGUMENT, "outputs[0].name: must be among"),
        ("ModelInfer", asking(["a"], raw_input_contents=[b"\x01"]), code.INVALID_ARGUMENT, "inputs[0]: BYTES"),
        ("ModelInfer", asking([]), code.INVALID_ARGUMENT, "text: text must hold at least one"),
        ("ModelInfer", asking([""]), code.INVALID_ARGUMENT, "text[0]: nothing remains"),
        ("ModelInfer", asking(["a"] * 1025), code.INVALID_ARGUMENT, "text: text may hold at most 1024"),
        ("ModelInfer", b"\xff\xff", code.INVALID_ARGUMENT, "the bytes are no inference.ModelInferRequest"),
        ("ModelStatistics", b"", code.UNIMPLEMENTED, "Method not found"),
        ("RepositoryModelLoad", b"", code.UNIMPLEMENTED, "Method not found"),
    ]:
        found = client.refused(method, sent)
        assert (found[0], found[1][: len(begins)]) == (status, begins), method


def test_a_call_without_a_message(client: Client) -> None:
    call = client.channel.stream_unary(f"/{SERVICE}/ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        call(iter([]), timeout=20)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "no message was sent")


def test_giant_messages_are_not_read(begin: Any, tiny: Bundle) -> None:
    client = begin(entry(tiny), limits={"max_body_bytes": 100})
    assert client.refused("ModelInfer", asking(["x" * 100_000]))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert client.call("ServerLive").live


def test_overload_is_refused_with_a_time(begin: Any, tiny: Bundle) -> None:
    client = begin(entry(tiny), admission={"tokens_in_flight": 100})
    with client.http.service.admission.enter(100):
        code, details, trailing = client.refused("ModelInfer", asking(["a"]))
        assert (code, details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "the service is full; try again later")
        assert int(trailing["retry-after"]) >= 1
    assert client.http.service.admission.in_flight == 0
    assert client.call("ModelInfer", asking(["a"])).model_name == "tiny"


def test_deadlines_are_the_service_s_the_request_s_and_the_client_s(begin: Any, tiny: Bundle) -> None:
    late = grpc.StatusCode.DEADLINE_EXCEEDED
    assert begin(entry(tiny), admission={"deadline_s": 1e-6}).refused("ModelInfer", asking(["a"]))[0] == late
    client = begin(entry(tiny))
    own = {"timeout": {"int64_param": 1}}
    assert client.refused("ModelInfer", asking(TEXTS * 100, parameters=own))[0] == late
    assert client.refused("ModelInfer", asking(TEXTS * 200), timeout=0.01)[0] == late
    until = time.monotonic() + 5
    while client.http.service.admission.in_flight and time.monotonic() < until:
        time.sleep(0.01)
    assert client.http.service.admission.in_flight == 0  # what the client gave up has left


def test_keys_and_scopes(begin: Any, tiny: Bundle, tmp_path: Path) -> None:
    keys = [
        {"name": "all", "sha256": digest_of("vb_all")},
        {"name": "big", "sha256": digest_of("vb_big"), "models": ["big"]},
    ]
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump({"keys": keys}), encoding="utf-8")
    client = begin(entry(tiny), auth={"keys_file": str(tmp_path / "keys.yaml")})
    sent = asking(["a"])
    code = grpc.StatusCode
    assert client.refused("ModelInfer", sent)[0] == code.UNAUTHENTICATED
    assert client.refused("ModelInfer", b"\xff not read")[0] == code.UNAUTHENTICATED
    assert client.refused("ModelInfer", sent, authorization="Bearer vb_none")[0] == code.UNAUTHENTICATED
    assert client.refused("ModelInfer", sent, authorization="Bearer vb_big")[0] == code.PERMISSION_DENIED
    assert client.call("ModelInfer", sent, authorization="Bearer vb_all").model_name == "tiny"
    assert client.call("ServerReady").ready
    assert client.refused("ServerMetadata")[0] == code.UNAUTHENTICATED
    assert list(client.call("RepositoryIndex", authorization="Bearer vb_big").models) == []


def test_a_stream_answers_in_order_and_survives_a_refusal(client: Client) -> None:
    answers = client.stream(asking(["Good"], id="1"), asking(["a"], "none", id="2"), asking(["ok"] * 3, id="3"))
    assert [one.infer_response.id for one in answers] == ["1", "2", "3"]
    assert [bool(one.error_message) for one in answers] == [False, True, False]
    assert answers[1].error_message.startswith("model: no model of that name")
    assert len(read(answers[2].infer_response)["stars"]) == 3
    assert client.stream() == []


def test_ids_are_the_client_s_and_calls_are_counted(client: Client) -> None:
    trailing = client.refused("ModelInfer", asking(["a"], "none"), **{"x-request-id": "mine"})[2]
    assert trailing == {"x-request-id": "mine"}
    client.call("ModelInfer", asking(["a"]))
    shown = client.http.get("/metrics").text.splitlines()
    route = f"/{SERVICE}/ModelInfer"
    assert f'verbatim_requests_total{{route="{route}",status="404"}} 1.0' in shown
    assert f'verbatim_requests_total{{route="{route}",status="200"}} 1.0' in shown
    assert 'verbatim_refused_total{code="not_found"} 1.0' in shown


def test_an_unforeseen_error_is_told_without_its_words(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    words = "a customer's text"

    async def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError(words)

    monkeypatch.setattr(client.http.service, "score", fail)  # type: ignore[attr-defined]
    code, details, _ = client.refused("ModelInfer", asking(["a"]))
    assert code == grpc.StatusCode.INTERNAL
    assert words not in details
    assert [record.kind for record in caplog.records if record.levelname == "ERROR"] == ["ZeroDivisionError"]  # type: ignore[attr-defined]
    assert words not in "".join(str(record.__dict__) for record in caplog.records)


def test_told_to_stop_it_finishes_what_it_has(start: Start, tiny: Bundle) -> None:
    port = free_port()
    client = Client(start(entry(tiny), grpc={"port": port}), port)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(client.call("ModelInfer", asking(TEXTS * 250))))
    thread.start()
    while not client.http.service.admission.in_flight:  # type: ignore[attr-defined]
        time.sleep(0.001)
    client.http.__exit__()
    thread.join()
    assert len(read(found[0])["stars"]) == 1000
    assert client.refused("ServerLive")[0] == grpc.StatusCode.UNAVAILABLE
    client.channel.close()


def test_odd_messages_are_answered_or_faults_of_the_client(client: Client) -> None:
    rng = random.Random(0)  # noqa: S311
    seed = asking(["good", "bad"], outputs=[{"name": "stars"}], parameters={"a": {"bool_param": True}})
    codes = set()
    for _ in range(500):
        sent = bytearray(seed)
        for _ in range(rng.randint(0, 3)):
            place = rng.randrange(len(sent) + 1)
            sent[place : place + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
        try:
            client.call("ModelInfer", bytes(sent))
        except grpc.RpcError as error:
            codes.add(error.code())
    assert codes <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    assert grpc.StatusCode.INVALID_ARGUMENT in codes
