"""What FastAPI can't know of the REST routes stands in the OpenAPI too: limits, headers, codes, keys."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from openapi_spec_validator import validate

from serving.errors import HTTP_STATUS
from tests.serving.conftest import entry_named, settings_of
from tests.serving.double import double_app


@pytest.fixture
def schema(tmp_path: Path) -> dict[str, Any]:
    limits = {"max_texts": 7, "max_text_chars": 99}
    app = double_app(settings_of(entry_named("a"), limits=limits, jobs={"store": str(tmp_path)}))
    found: dict[str, Any] = app.openapi()
    return found


def operations(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"{name} {path}": one for path, methods in schema["paths"].items() for name, one in methods.items()}


def body(schema: dict[str, Any], path: str) -> dict[str, Any]:
    found: dict[str, Any] = schema["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    return found


def test_it_is_valid(schema: dict[str, Any]) -> None:
    validate(schema)


def test_every_error_has_form_example_and_headers(schema: dict[str, Any]) -> None:
    for name, operation in operations(schema).items():
        for status, answer in operation["responses"].items():
            if int(status) < 400:
                continue
            content = answer["content"]["application/json"]
            assert content["schema"] == {"$ref": "#/components/schemas/ErrorAnswer"}, (name, status)
            assert HTTP_STATUS[content["example"]["error"]["code"]] == int(status)
            expected = {"401": {"WWW-Authenticate"}, "429": {"Retry-After"}, "503": {"Retry-After"}}.get(status, set())
            assert answer.get("headers", {}).keys() == expected, (name, status)
    for path in ("/v1/score", "/v1/embeddings", "/v1/explain"):
        wanted = {"400", "401", "403", "404", "413", "415", "422", "429", "500", "503", "504"}
        assert wanted < schema["paths"][path]["post"]["responses"].keys()


def test_limits_are_those_of_the_settings(schema: dict[str, Any]) -> None:
    assert body(schema, "/v1/score")["schema"]["properties"]["texts"]["anyOf"][1]["maxItems"] == 7
    assert body(schema, "/v1/embeddings")["schema"]["properties"]["input"]["anyOf"][1]["maxItems"] == 7
    assert body(schema, "/v1/explain")["schema"]["properties"]["text"]["maxLength"] == 99


def test_every_body_has_an_example(schema: dict[str, Any]) -> None:
    posts = [path for path, methods in schema["paths"].items() if "post" in methods]
    assert posts == ["/v1/score", "/v1/embeddings", "/v1/explain", "/v1/jobs"]
    assert all(body(schema, path)["example"] for path in posts)


def test_a_key_is_asked_for_where_there_are_keys(schema: dict[str, Any], tmp_path: Path) -> None:
    assert not [name for name, operation in operations(schema).items() if "security" in operation]
    keys = tmp_path / "keys.yaml"
    keys.write_text(yaml.safe_dump({"keys": []}), encoding="utf-8")
    closed = double_app(settings_of(entry_named("a"), auth={"keys_file": str(keys)})).openapi()
    needless = {name for name, operation in operations(closed).items() if operation.get("security") != [{"key": []}]}
    assert needless == {"get /healthz", "get /readyz"}
