"""Every REST route over real replicas in this process: the right answers, and the form of every error."""

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator
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
from serving.service import Caller, Service, Wanted
from serving.web.ndjson import score_lines
from tests.serving.conftest import LocalBackend, Start, entry
from tests.tiny import tiny_bundle

TEXTS = ["Good phone, fast delivery!", "质量很差", "Long " + "abc" * 40, "ok", "<p>Not   bad</p> &amp; cheap"]


def score(client: TestClient, texts: Any, **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/score", json={"texts": texts, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def error(client: TestClient, path: str, body: bytes, **headers: str) -> tuple[int, str, str | None]:
    answer = client.post(path, content=body, headers=headers)
    found = answer.json()["error"]
    assert set(found) == {"code", "message", "field", "request_id"}
    return answer.status_code, found["code"], found["field"]


def test_scores_are_the_scorer_s_own(client: TestClient, tiny: Bundle) -> None:
    tokens = tiny.tokeniser.encode([clean(text) for text in TEXTS])
    expected = Scorer(tiny, token_budget=512).score(tokens).to_pylist()
    answer = score(client, TEXTS)
    assert (answer["model"], answer["version"], answer["num_tokens"]) == (str(tiny), "1", tokens.num_tokens)
    for result, row, length, cut in zip(answer["results"], expected, tokens.lengths, tokens.truncated, strict=True):
        assert list(result["scores"]) == list(row)
        assert result["scores"] == {
            name: value if isinstance(value, str) else pytest.approx(value, abs=1e-5) for name, value in row.items()
        }
        assert (result["num_tokens"], result["truncated"]) == (length, cut)
    assert [result["lang"] for result in answer["results"]] == ["en", "zh", "en", "en", "en"]
    assert [result["truncated"] for result in answer["results"]] == [False, False, True, False, False]


def test_one_text_strings_and_items_with_ids(client: TestClient) -> None:
    (alone,) = score(client, "Good")["results"]
    assert "id" not in alone
    mixed = score(client, ["Good", {"id": "a", "text": "Good"}, {"id": "", "text": "Good"}])["results"]
    assert [result.get("id") for result in mixed] == [None, "a", ""]
    assert [result["scores"]["stars"] for result in mixed] == [pytest.approx(alone["scores"]["stars"], abs=1e-5)] * 3


def test_only_the_heads_asked_for(client: TestClient) -> None:
    (result,) = score(client, "Good", heads=["stars"])["results"]
    assert list(result["scores"]) == ["stars", *(f"prob_stars_{n}" for n in range(1, 6))]
    (result,) = score(client, "Good", heads=[])["results"]
    assert result["scores"] == {}
    assert error(client, "/v1/score", b'{"texts": "a", "heads": ["stars", "none"]}') == (
        422,
        "invalid_request",
        "heads.1",
    )


def test_a_text_without_words_or_too_long_has_an_error_of_its_own(start: Start, tiny: Bundle) -> None:
    client = start(entry(tiny), limits={"max_text_chars": 50})
    results = score(client, ["", {"id": "b", "text": "<br> "}, "Good", "x" * 51, "x" * 50])["results"]
    faults = [result.get("error", {}).get("code") for result in results]
    assert faults == ["empty_text", "empty_text", None, "text_too_long", None]
    assert results[1]["id"] == "b"
    assert results[3]["error"]["field"] == "texts.3"
    assert [result["error"]["code"] for result in score(client, ["", " "])["results"]] == ["empty_text"] * 2


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 400, "body"),
        (b"{", 400, "body"),
        (b'{"texts": ["\\ud800"]}', 400, "body"),
        (b'{"texts": ["\xff"]}', 400, "body"),
        (b'{"texts": ' + b"[" * 5000, 400, "body"),
        (b"null", 422, "body"),
        (b"[]", 422, "body"),
        (b"{}", 422, "texts"),
        (b'{"texts": []}', 422, "texts"),
        (b'{"texts": null}', 422, "texts"),
        (b'{"texts": 1}', 422, "texts"),
        (b'{"texts": [NaN]}', 422, "texts.0"),
        (b'{"texts": [' + b"9" * 4000 + b"]}", 422, "texts.0"),
        (b'{"texts": ["a", ["b"]]}', 422, "texts.1"),
        (b'{"texts": [{"id": "a"}]}', 422, "texts.0.text"),
        (b'{"texts": [{"id": 1, "text": "a"}]}', 422, "texts.0.id"),
        (b'{"texts": [{"text": "a", "lang": "en"}]}', 422, "texts.0.lang"),
        (b'{"texts": "a", "head": "stars"}', 422, "head"),
        (b'{"texts": "a", "heads": "stars"}', 422, "heads"),
        (b'{"texts": "a", "model": "none"}', 404, "model"),
        (b'{"texts": "a", "version": "2"}', 404, "version"),
    ],
)
def test_faults_of_a_body_are_named(client: TestClient, body: bytes, status: int, field: str) -> None:
    found = error(client, "/v1/score", body)
    assert (found[0], found[2]) == (status, field)


def test_limits_of_a_body(start: Start, tiny: Bundle) -> None:
    client = start(entry(tiny), limits={"max_body_bytes": 100, "max_texts": 3})
    assert error(client, "/v1/score", b" " * 101) == (413, "too_large", "body")
    assert error(client, "/v1/score", b"{}", **{"content-length": "9" * 30}) == (413, "too_large", "body")
    chunks = client.post("/v1/score", content=iter([b" " * 60, b" " * 60]))
    assert (chunks.status_code, chunks.json()["error"]["field"]) == (413, "body")
    assert error(client, "/v1/score", b'{"texts": ["a","a","a","a"]}') == (413, "too_large", "texts")
    assert error(client, "/v1/score", b"x", **{"content-encoding": "gzip"}) == (
        415,
        "unsupported_media_type",
        "content-encoding",
    )


def test_unknown_paths_and_methods_have_the_same_form(client: TestClient) -> None:
    assert error(client, "/v1/none", b"{}")[:2] == (404, "not_found")
    answer = client.get("/v1/score")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")


def test_request_ids_are_the_client_s_if_they_can_be_written_down(client: TestClient) -> None:
    sent = client.post("/v1/score", json={"texts": "a"}, headers={"x-request-id": "abc-1"}).json()
    assert sent["request_id"] == "abc-1"
    odd = client.post("/v1/score", json={"texts": "a"}, headers={"x-request-id": 'a" b'}).json()
    assert odd["request_id"] != 'a" b'
    assert len(odd["request_id"]) == 32


def test_an_unforeseen_error_is_told_without_its_words(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a customer's text")

    monkeypatch.setattr(client.service, "score", fail)  # type: ignore[attr-defined]
    answer = client.post("/v1/score", json={"texts": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "customer" not in answer.text
    assert "customer" not in caplog.text
    assert any(getattr(record, "kind", "") == "ZeroDivisionError" for record in caplog.records)


def test_no_text_and_no_key_is_logged(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        client.post("/v1/score", json={"texts": "secretword"}, headers={"authorization": "Bearer vb_secret"})
        client.post("/v1/score", content=b'{"texts": [{"secretword": 1}]}')
    assert "secret" not in "".join(str(record.__dict__) for record in caplog.records if record.name == "ray.serve")


def test_overload_is_refused_with_a_time(start: Start, tiny: Bundle) -> None:
    client = start(entry(tiny), admission={"tokens_in_flight": 100})
    with client.service.admission.enter(100):  # type: ignore[attr-defined]
        answer = client.post("/v1/score", json={"texts": "a"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "overloaded")
        assert int(answer.headers["retry-after"]) >= 1
    assert score(client, "a")["num_tokens"] == 3
    assert client.service.admission.in_flight == 0  # type: ignore[attr-defined]


def test_a_deadline_gives_504(start: Start, tiny: Bundle) -> None:
    client = start(entry(tiny), admission={"deadline_s": 1e-6})
    assert error(client, "/v1/score", b'{"texts": "a"}') == (504, "deadline_exceeded", None)


def test_keys_scopes_and_rates(start: Start, tiny: Bundle, tmp_path: Any) -> None:
    keys = [
        {"name": "all", "sha256": digest_of("vb_all")},
        {"name": "big", "sha256": digest_of("vb_big"), "models": ["big"]},
        {"name": "slow", "sha256": digest_of("vb_slow"), "tokens_per_minute": 10},
    ]
    file = tmp_path / "keys.yaml"
    file.write_text(yaml.safe_dump({"keys": keys}), encoding="utf-8")
    client = start(entry(tiny), auth={"keys_file": str(file)})

    def ask(key: str | None) -> int:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        status: int = client.post("/v1/score", json={"texts": "Good phone"}, headers=headers).status_code
        return status

    assert (ask(None), ask("vb_none"), ask("vb_big"), ask("vb_all")) == (401, 401, 403, 200)
    assert (ask("vb_slow"), ask("vb_slow")) == (200, 429)
    assert [client.get(path).status_code for path in ("/healthz", "/readyz", "/v1/models", "/metrics")] == [
        200,
        200,
        401,
        401,
    ]
    answer = client.post("/v1/score", content=b"not read")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert client.get("/v1/models", headers={"authorization": "Bearer vb_big"}).json()["data"] == []


def test_models_tell_what_is_served(client: TestClient, tiny: Bundle) -> None:
    (model,) = client.get("/v1/models").json()["data"]
    heads = model.pop("heads")
    assert model == {
        "id": "tiny",
        "object": "model",
        "version": "1",
        "share": 1.0,
        "model": str(tiny),
        "languages": ["zh", "en"],
        "max_length": 64,
        "precision": "fp32",
        "device": "cpu",
        "card": "# A bundle for tests\n",
    }
    assert [head["name"] for head in heads] == ["sentiment", "stars"]
    assert heads[0]["columns"]["prob_negative"] == "float"


def test_a_canary_gets_its_share_and_can_be_named(start: Start, tiny: Bundle, other: Bundle) -> None:
    client = start(entry(tiny, share=0.75), entry(other, version="2", share=0.25))
    answers = [
        client.post("/v1/score", json={"texts": "Good"}, headers={"x-request-id": f"r{n}"}).json()["model"]
        for n in range(200)
    ]
    assert answers.count(str(other)) == pytest.approx(50, abs=20)
    assert score(client, "Good", version="2")["model"] == str(other)


def test_explanations_name_the_words_that_count(client: TestClient, tiny: Bundle) -> None:
    text = "<b>Good</b> phone 质量 差"
    answer = client.post("/v1/explain", json={"text": text, "k": 3, "head": "sentiment", "label": "negative"}).json()
    assert (answer["model"], answer["method"], answer["column"]) == (str(tiny), "occlusion", "prob_negative")
    scorer = Scorer(tiny, token_budget=512)
    full, without_phone = (
        row["prob_negative"] for row in scorer.score(tiny.tokeniser.encode([clean(text), "Good  质量 差"])).to_pylist()
    )
    assert answer["score"] == pytest.approx(full, abs=1e-5)
    effects = [one["effect"] for one in answer["attributions"]]
    assert len(effects) == 3
    assert effects == sorted(effects, key=lambda effect: -abs(effect))
    assert all(text[one["start"] : one["end"]] == one["text"] for one in answer["attributions"])
    every = client.post("/v1/explain", json={"text": text, "head": "sentiment", "label": "negative"}).json()
    (phone,) = [one for one in every["attributions"] if one["text"] == "phone"]
    assert phone["effect"] == pytest.approx(full - without_phone, abs=1e-5)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"text": "..."}, (422, "invalid_request", "text")),
        ({"text": ""}, (422, "invalid_request", "text")),
        ({"text": "good", "head": "none"}, (422, "invalid_request", "head")),
        ({"text": "good", "label": "none"}, (422, "invalid_request", "label")),
        ({"text": "good", "k": 0}, (422, "invalid_request", "k")),
        ({"text": "x" * 40_000}, (413, "too_large", "text")),
    ],
)
def test_what_can_not_be_explained(client: TestClient, body: dict[str, Any], found: tuple[int, str, str]) -> None:
    assert error(client, "/v1/explain", json.dumps(body).encode()) == found


def test_no_embeddings_without_a_head_for_them(client: TestClient) -> None:
    assert error(client, "/v1/embeddings", b'{"input": "a", "model": "tiny"}') == (404, "not_found", "model")
    assert error(client, "/v1/embeddings", b'{"input": [[1, 2]], "model": "tiny"}')[0] == 422


ALL_KINDS = (
    HeadSpec(name="sentiment", labels=("negative", "neutral", "positive")),
    HeadSpec(name="topics", kind="multi", labels=("battery", "price")),
    HeadSpec(name="aspects", kind="token", labels=("O", "B-aspect", "I-aspect")),
    HeadSpec(name="vector", kind="embedding", size=32),
)


@pytest.fixture
def all_kinds(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "all", heads=ALL_KINDS)


def test_heads_of_every_kind_give_the_scorer_s_own_answers(start: Start, all_kinds: Bundle) -> None:
    client = start(entry(all_kinds))
    tokens = all_kinds.tokeniser.encode([clean(text) for text in TEXTS], with_offsets=True)
    expected = Scorer(all_kinds, token_budget=512).score(tokens).to_pylist()
    for result, row in zip(score(client, TEXTS)["results"], expected, strict=True):
        assert result["scores"]["topics"] == row["topics"]
        assert result["scores"]["vector"] == pytest.approx(row["vector"], abs=1e-5)
        found = [{**span, "score": None} for span in result["scores"]["aspects"]]
        assert found == [{**span, "score": None} for span in row["aspects"]]
    refused = client.post("/v1/explain", json={"text": "good", "head": "vector"})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "head")
    assert client.post("/v1/explain", json={"text": "good", "head": "topics"}).status_code == 200


def test_embeddings_come_as_numbers_or_base64(start: Start, all_kinds: Bundle) -> None:
    client = start(entry(all_kinds))
    asked = {"input": ["Good", "质量很差"], "model": "tiny"}
    plain = client.post("/v1/embeddings", json=asked).json()
    assert [one["index"] for one in plain["data"]] == [0, 1]
    assert plain["usage"] == {"prompt_tokens": 12, "total_tokens": 12}
    rows = Scorer(all_kinds, token_budget=512).score(all_kinds.tokeniser.encode(asked["input"], with_offsets=True))
    packed = client.post("/v1/embeddings", json={**asked, "encoding_format": "base64"}).json()
    for one, other, vector in zip(plain["data"], packed["data"], rows["vector"].to_pylist(), strict=True):
        assert one["embedding"] == pytest.approx(vector, abs=1e-5)
        assert np.frombuffer(base64.b64decode(other["embedding"]), "<f4").tolist() == pytest.approx(vector, abs=1e-5)
    empty = client.post("/v1/embeddings", json={"input": ["Good", " "], "model": "tiny"})
    assert (empty.status_code, empty.json()["error"]["field"]) == (422, "input.1")


def lines(client: TestClient, body: Any, query: str = "") -> list[dict[str, Any]]:
    headers = {"content-type": "application/x-ndjson"}
    answer = client.post(f"/v1/score{query}", content=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson"), answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_long_list_as_lines_has_the_same_scores_in_order(client: TestClient) -> None:
    texts = [f"{TEXTS[n % 5]} {n}" for n in range(1000)]
    body = "\n".join(json.dumps(text) for text in texts).encode()
    pieces = [body[begin : begin + 977] for begin in range(0, len(body), 977)]  # cut anywhere
    streamed = lines(client, iter(pieces), "?model=tiny&heads=stars")
    assert [line["line"] for line in streamed] == list(range(1, 1001))
    plain = score(client, texts, heads=["stars"])["results"]
    for line, result in zip(streamed, plain, strict=True):
        assert line["scores"]["stars"] == pytest.approx(result["scores"]["stars"], abs=1e-5)


def test_a_bad_line_does_not_end_the_stream(client: TestClient) -> None:
    body = b'"Good"\n\n{"id": "b", "text": ""}\n{"text": 1}\nnonsense\n{"id": "c", "text": "Good"}\n'
    found = lines(client, body)
    assert [(line["line"], line.get("id"), line.get("error", {}).get("code")) for line in found] == [
        (1, None, None),
        (3, "b", "empty_text"),
        (4, None, "invalid_request"),
        (5, None, "invalid_json"),
        (6, "c", None),
    ]


def test_a_stream_is_refused_before_it_begins_and_bounded_while_it_runs(start: Start, tiny: Bundle) -> None:
    client = start(entry(tiny), limits={"max_body_bytes": 100, "max_stream_bytes": 1000})
    headers = {"content-type": "application/x-ndjson"}
    assert client.post("/v1/score?model=none", content=b'"a"', headers=headers).status_code == 404
    assert client.post("/v1/score", content=b" " * 1001, headers=headers).status_code == 413

    def streamed(*parts: bytes) -> list[dict[str, Any]]:
        async def body() -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        async def read() -> bytes:
            return b"".join([part async for part in score_lines(service, Caller("id", None), Wanted(), body())])

        service = Service(client.service.settings, LocalBackend(client.service.settings))  # type: ignore[attr-defined]
        return [json.loads(line) for line in asyncio.run(read()).splitlines()]

    for parts in ([b'"a"\n"', b"x" * 200, b'"\n"b"\n'], [b'"a"\n', b'"' + b"x" * 200 + b'"\n"b"\n']):
        assert [line.get("error", {}).get("code") for line in streamed(*parts)] == [None, "too_large"]
    too_much = streamed(*[b'"a"\n'] * 300)
    assert (len(too_much), too_much[-1]["error"]["code"]) == (251, "too_large")


def test_metrics_count_what_was_done(client: TestClient) -> None:
    score(client, ["Good", "bad"])
    client.post("/v1/score", content=b"{")
    shown = client.get("/metrics").text
    for line in (
        'verbatim_requests_total{route="/v1/score",status="200"} 1.0',
        'verbatim_requests_total{route="/v1/score",status="400"} 1.0',
        'verbatim_refused_total{code="invalid_json"} 1.0',
        'verbatim_texts_total{name="tiny",version="1"} 2.0',
        'verbatim_tokens_total{name="tiny",version="1"} 11.0',
        "verbatim_tokens_in_flight 0.0",
    ):
        assert line in shown.splitlines()
    assert 'verbatim_stage_seconds_count{name="tiny",stage="wait",version="1"} 1.0' in shown


def test_openapi_describes_every_route(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {
        "/v1/score",
        "/v1/embeddings",
        "/v1/explain",
        "/v1/models",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    assert schema["paths"]["/v1/score"]["post"]["requestBody"]["required"]


def test_odd_bodies_never_give_a_500(client: TestClient) -> None:
    rng = random.Random(0)  # noqa: S311
    seeds = [b'{"texts": ["good", {"id": "a", "text": "bad"}], "heads": ["stars"], "model": "tiny"}', b'{"text": "a"}']
    pieces = [
        b"\x00",
        b"\xff",
        b'"',
        b"\\ud800",
        b"NaN",
        b"-1e999",
        b"[",
        b"}",
        b"9" * 400,
        b'"texts":',
        b"null",
        b"\\u0000",
    ]
    for _ in range(500):
        body = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(body) + 1)
            body[place : place + rng.randint(0, 6)] = rng.choice(pieces)
        path = rng.choice(["/v1/score", "/v1/explain", "/v1/embeddings"])
        assert client.post(path, content=bytes(body)).status_code < 500, bytes(body)
