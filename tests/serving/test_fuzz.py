"""Ten thousand bodies that nobody should send: each is answered, none with 500, and what is refused says why."""

import asyncio
import copy
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.conftest import entry_named, settings_of
from tests.serving.double import double_app

pytestmark = pytest.mark.slow

NUM_BODIES = 10_000
VALID: dict[str, Any] = {
    "/v1/score": {"texts": ["a", {"id": "b", "text": "质量很好"}], "model": "starter", "heads": ["sentiment"]},
    "/v1/embeddings": {"input": ["a", "b"], "model": "starter", "encoding_format": "base64"},
    "/v1/explain": {"text": "not good", "model": "starter", "head": "sentiment", "label": "positive", "k": 5},
    "/v1/jobs": {
        "corpus": {"input": "s3://c/in", "output": "s3://c/out", "columns": {"id": "id", "text": "text"}},
        "model": "starter",
    },
    "/v2/models/starter/infer": {
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}],
        "outputs": [{"name": "sentiment"}],
    },
}
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 2**31, 2**63, 2**64, 10**400, 1e308, float("nan"), float("inf")),
    *("", " ", "\0", "a"),
    *("\ud800", "\udfff\ud800", "😀" * 50, "\u202e", "../..", "a" * 5000, "vector", "starter", [], [[]], {}, {"": {}}),
    *([None], [1, "a"], ["a"] * 2000, {"text": None}, {"id": [], "text": {}}, [{"text": "a", "id": "a" * 300}]),
]
RAW = [
    *(b'{"texts": ' + b"[" * 100_000, b'{"a":' * 20_000, b"9" * 100_000),
    *(b'{"texts": "\xff\xfe"}', b"\xef\xbb\xbf{}", b"", b"\0"),
]
TYPES = [
    *("application/json", "application/x-ndjson", "text/plain", "multipart/form-data"),
    *("application/json; charset=x", "", "a/b/c", "é"),
]
REFUSALS = {400, 401, 403, 404, 413, 415, 422, 429}


def fields(value: Any) -> list[tuple[Any, Any]]:
    """Every container with a key of it, however deep."""
    pairs = list(value.items()) if isinstance(value, dict) else []
    pairs += list(enumerate(value)) if isinstance(value, list) else []
    return [(value, key) for key, _ in pairs] + [found for _, inner in pairs for found in fields(inner)]


def odd(random_: random.Random) -> Any:
    return copy.deepcopy(random_.choice(ODD))


def mutated(random_: random.Random, valid: Any) -> bytes:
    """A valid body with some of its values replaced, doubled, taken out or renamed; then perhaps with broken bytes."""
    body = json.loads(json.dumps(valid))
    for _ in range(random_.randint(1, 3)):
        container, key = random_.choice(fields(body) or [({"": 0}, "")])
        what = random_.random()
        if what < 0.7:
            container[key] = odd(random_)
        elif what < 0.8:
            del container[key]
        elif isinstance(container, dict):
            container[str(random_.choice(ODD))[:50]] = odd(random_)
        else:
            container.append(odd(random_))
    plain = json.dumps(body, ensure_ascii=random_.random() < 0.5).encode("utf-8", "surrogatepass")
    return broken(random_, plain) if random_.random() < 0.3 else plain


def broken(random_: random.Random, plain: bytes) -> bytes:
    raw = bytearray(plain)
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(raw) + 1)
        raw[at : at + random_.randint(0, 3)] = random_.randbytes(random_.randint(0, 3))
    return bytes(raw)


def headers(random_: random.Random) -> dict[str, Any]:
    kind = "application/json" if random_.random() < 0.6 else random_.choice(TYPES)
    given: dict[str, Any] = {"content-type": kind.encode("utf-8")}
    if random_.random() < 0.05:
        given["inference-header-content-length"] = random_.choice(["-1", "3", "9" * 30, "x"])
    if random_.random() < 0.05:
        given["content-encoding"] = random_.choice(["gzip", "deflate", "br", "identity", "gzip, gzip"])
    return given


def test_no_body_gives_500(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("ERROR")
    random_ = random.Random(20261122)  # noqa: S311
    app = double_app(settings_of(entry_named("starter"), jobs={"store": str(tmp_path), "allow": ["s3://c"]}))
    statuses: dict[str, Counter[int]] = {path: Counter() for path in VALID}

    async def main() -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for number in range(NUM_BODIES):
                path = random_.choice(list(VALID))
                raw = random_.choice(RAW) if number % 20 == 0 else mutated(random_, VALID[path])
                answer = await client.post(path, content=raw, headers=headers(random_))
                statuses[path][answer.status_code] += 1
                assert answer.status_code in {200, 202} | REFUSALS, (path, answer.status_code, raw[:300])
                if answer.status_code in REFUSALS:
                    assert answer.json()["error"], (path, raw[:300])

    asyncio.run(main())
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    assert sum(found.total() for found in statuses.values()) == NUM_BODIES
    for path, found in statuses.items():
        assert min(found[200] + found[202], found[400]) > 20, (path, found)
