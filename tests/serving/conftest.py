"""The service in one process, over real replicas of a tiny bundle and without Ray."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from cluster.config import parse_config
from models.bundle import Bundle, load_bundle
from models.heads import HeadSpec
from serving.auth import digest_of
from serving.errors import RequestError
from serving.replica import Replica
from serving.service import Service
from serving.settings import ServingSettings
from serving.web.http import build_http
from serving.wire import BundleFacts, ExplainCall, ExplainReply, ScoreCall, ScoreReply
from tests.serving.started import ray_head, started
from tests.tiny import tiny_bundle


class LocalBackend:
    """Replicas in this process, one a deployment."""

    def __init__(self, settings: ServingSettings) -> None:
        self.replicas = {bundle.deployment: Replica(bundle) for bundle in settings.bundles}

    async def score(self, deployment: str, call: ScoreCall) -> ScoreReply | RequestError:
        return await self.replicas[deployment].score(call)

    async def explain(self, deployment: str, call: ExplainCall) -> ExplainReply | RequestError:
        return await self.replicas[deployment].explain(call)

    async def facts(self, deployment: str) -> BundleFacts | RequestError:
        return await self.replicas[deployment].facts()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny").folder)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Another model under the same name."""
    return load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundles") / "other", seed=1).folder)


def entry(bundle: Bundle, **more: Any) -> dict[str, Any]:
    """An entry of `bundles` for a local bundle, small enough for tests."""
    return {"name": "tiny", "reference": str(bundle.folder), "precision": "fp32", "token_budget": 512, **more}


def entry_named(name: str, **more: Any) -> dict[str, Any]:
    """An entry of `bundles` for backends that load none."""
    return {"name": name, "reference": name, **more}


def settings_of(*bundles: dict[str, Any], **more: Any) -> ServingSettings:
    return parse_config({"bundles": list(bundles), **more}, ServingSettings, "test")


Start = Callable[..., TestClient]


@pytest.fixture
def start() -> Iterator[Start]:
    """`start(entry(tiny), limits={…})` gives a client of that service; `client.service` is the service itself."""
    clients: list[TestClient] = []

    def begin(*bundles: dict[str, Any], **more: Any) -> TestClient:
        settings = settings_of(*bundles, **more)
        service = Service(settings, LocalBackend(settings))
        client = TestClient(build_http(service), raise_server_exceptions=True)
        client.service = service  # type: ignore[attr-defined]
        client.__enter__()
        clients.append(client)
        return client

    yield begin
    for client in clients:
        client.__exit__()


@pytest.fixture
def client(start: Start, tiny: Bundle) -> TestClient:
    """A service of one tiny bundle."""
    return start(entry(tiny))


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "NO_PROXY", "127.0.0.1")


LIVE_KEY = "vb_live"


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a whole service that asks for `LIVE_KEY`: the starter, `aspects` with spans and embeddings, and jobs."""
    folder = tmp_path_factory.mktemp("live")
    heads = (
        HeadSpec(name="aspect", kind="token", labels=("O", "B-price", "I-price")),
        HeadSpec(name="vector", kind="embedding", size=32, pooling="mean"),
    )
    marks = tiny_bundle(folder / "aspects", name="aspects", seed=3, heads=heads)
    keys = [{"name": "live", "sha256": digest_of(LIVE_KEY)}]
    (folder / "keys.yaml").write_text(yaml.safe_dump({"keys": keys}), encoding="utf-8")
    bundles = [
        {"name": "starter", "reference": "starter", "num_cpus": 0.5},
        {"name": "aspects", "reference": str(marks.folder), "num_cpus": 0.5},
    ]
    with ray_head(folder, num_cpus=4) as head:
        jobs = {"store": str(folder / "jobs"), "dashboard": head.dashboard}
        settings = {"bundles": bundles, "auth": {"keys_file": str(folder / "keys.yaml")}, "jobs": jobs}
        with started(settings, folder, RAY_ADDRESS=head.address) as url:
            yield url


ROOT = Path(__file__).parents[2]
