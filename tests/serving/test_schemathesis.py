"""Schemathesis over the OpenAPI, in process: what it says is what is answered, in every phase and by every check.

The double takes every head and every text, so that whatever the schema allows is answered and not refused.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import yaml
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import from_schema
from schemathesis.engine.events import FatalError, NonFatalError, ScenarioFinished

from serving.auth import digest_of
from serving.web.ndjson import MEDIA_TYPE
from tests.serving.conftest import entry_named, settings_of
from tests.serving.double import double_app

pytestmark = pytest.mark.slow

REFUSALS = [400, 401, 403, 404, 405, 409, 413, 415, 422, 429]
CHECKS = {
    "negative_data_rejection": {"expected-statuses": REFUSALS},
    "use_after_free": {"enabled": False},  # DELETE cancels a job, which can still be asked for
}
CONFIG = {"checks": CHECKS, "seed": 20261122}


@schemathesis.serializer(MEDIA_TYPE)
def lines(context: Any, value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("asks_for_key", [False, True])
def test_it_finds_nothing(tmp_path: Path, asks_for_key: bool) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text(yaml.safe_dump({"keys": [{"name": "a", "sha256": digest_of("vb_a")}]}), encoding="utf-8")
    auth = {"keys_file": str(keys)} if asks_for_key else {}
    jobs = {"allow": ["s3://corpus"], "store": str(tmp_path / "jobs"), "dashboard": "http://127.0.0.1:1"}
    app = double_app(settings_of(entry_named("starter"), auth=auth, jobs=jobs))
    plain = CONFIG | ({"headers": {"Authorization": "Bearer vb_a"}} if asks_for_key else {})
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=SchemathesisConfig.from_dict(plain))
    schema.config.generation.update(modes=list(schemathesis.GenerationMode))
    found, num_scenarios, num_cases = [], 0, 0
    for event in from_schema(schema).execute():
        if isinstance(event, FatalError | NonFatalError):
            found.append(str(event))
        if isinstance(event, ScenarioFinished):
            num_scenarios, num_cases = num_scenarios + 1, num_cases + len(event.recorder.cases)
            found += [
                f"{event.recorder.label}: {check.name}: {check.failure_info.failure.message}"
                for checks in event.recorder.checks.values()
                for check in checks
                if check.failure_info is not None
            ]
    assert found == [], "\n".join(found)
    assert num_scenarios >= 2 * len(app.openapi()["paths"])
    assert num_cases > 500
