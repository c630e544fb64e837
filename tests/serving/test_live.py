"""The service on a local Ray: parity with the scorer, canary, overload, a kill, a rolling change, waking, draining.

Load comes from this process over real sockets; every answer is checked against the bundle that it claims to be from.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import ray
import yaml
from ray import serve
from ray.util import list_named_actors

from models.bundle import Bundle
from models.clean import clean
from models.scorer import Scorer
from serving.app import APP_NAME, build
from tests.serving.conftest import ROOT, entry

pytestmark = pytest.mark.ray

TEXTS = [f"{'good ' * (n % 7)}质量{n} phone" for n in range(40)]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A local Ray with Serve on a free port of loopback."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    port = free_port()
    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=200 << 20, log_to_driver=False)
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    ray.shutdown()


def deploy(*bundles: dict[str, Any], **more: Any) -> None:
    serve.run(build({"bundles": [{**one, "num_cpus": 0.5} for one in bundles], **more}), name=APP_NAME)


def expected(bundle: Bundle) -> list[dict[str, Any]]:
    return Scorer(bundle, token_budget=512).score(bundle.tokeniser.encode([clean(t) for t in TEXTS])).to_pylist()


def assert_same(scores: dict[str, Any], row: dict[str, Any]) -> None:
    assert list(scores) == list(row)
    for name, value in row.items():
        assert scores[name] == (value if isinstance(value, str) else pytest.approx(value, abs=1e-5))


class Load:
    """Clients that ask for one text of `TEXTS` after the other until they are told to stop."""

    def __init__(self, url: str, *bundles: Bundle) -> None:
        self.url, self.statuses, self.models = url, Counter[int](), list[str]()
        self.slowest_refusal_s, self.stop = 0.0, asyncio.Event()
        self._expected = {str(bundle): expected(bundle) for bundle in bundles}

    async def run(self, num_clients: int) -> None:
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(self._client(session, number) for number in range(num_clients)))

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        while not self.stop.is_set():
            number = (number + 7) % len(TEXTS)
            began = time.perf_counter()
            async with session.post(f"{self.url}/v1/score", json={"texts": TEXTS[number]}) as answer:
                body = await answer.json()
            self.statuses[answer.status] += 1
            if answer.status == 200:
                self.models.append(body["model"])
                assert_same(body["results"][0]["scores"], self._expected[body["model"]][number])
            else:
                self.slowest_refusal_s = max(self.slowest_refusal_s, time.perf_counter() - began)
                assert int(answer.headers["retry-after"]) >= 1
                assert body["error"]["code"] == "overloaded"


async def under_load(load: Load, num_clients: int, meanwhile: Any) -> None:
    """Run `meanwhile` in a thread while clients ask; they go on for a second after it."""
    clients = asyncio.create_task(load.run(num_clients))
    await asyncio.sleep(1)
    try:
        await asyncio.to_thread(meanwhile)
        await asyncio.sleep(1)
    finally:
        load.stop.set()
        await clients


async def post(url: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as answer:
        return answer.status, await answer.json()


def test_rest_end_to_end(url: str, tiny: Bundle) -> None:
    deploy(entry(tiny))

    async def main() -> None:
        status, answer = await post(f"{url}/v1/score", {"texts": TEXTS}, **{"x-request-id": "mine"})
        assert (status, answer["model"], answer["request_id"]) == (200, str(tiny), "mine")
        for result, row in zip(answer["results"], expected(tiny), strict=True):
            assert_same(result["scores"], row)
        status, answer = await post(f"{url}/v1/explain", {"text": TEXTS[3], "k": 2})
        assert (status, len(answer["attributions"])) == (200, 2)
        assert (await post(f"{url}/v1/score", {"texts": [1]}))[0] == 422
        assert (await post(f"{url}/v1/embeddings", {"input": "a", "model": "tiny"}))[0] == 404
        async with aiohttp.ClientSession() as session:
            lines = b"\n".join(b'"' + text.encode() + b'"' for text in TEXTS * 10)
            headers = {"content-type": "application/x-ndjson"}
            async with session.post(f"{url}/v1/score", data=lines, headers=headers) as answered:
                assert len((await answered.text()).splitlines()) == 10 * len(TEXTS)
            for path in ("/healthz", "/readyz", "/v1/models", "/metrics"):
                async with session.get(url + path) as got:
                    assert got.status == 200, path

    asyncio.run(main())


def test_a_canary_answers_its_share(url: str, tiny: Bundle, other: Bundle) -> None:
    deploy(entry(tiny, share=0.75), entry(other, version="2", share=0.25))
    load = Load(url, tiny, other)
    asyncio.run(under_load(load, 4, lambda: time.sleep(2)))
    assert set(load.statuses) == {200}
    assert 0.15 < load.models.count(str(other)) / len(load.models) < 0.35


def test_overload_is_refused_and_nothing_is_lost(url: str, tiny: Bundle) -> None:
    deploy(entry(tiny), admission={"tokens_in_flight": 40})
    load = Load(url, tiny)
    asyncio.run(under_load(load, 32, lambda: time.sleep(3)))
    assert set(load.statuses) == {200, 429}
    assert load.slowest_refusal_s < 2  # a machine that does other things too; 50 ms is measured by the benchmark


def test_a_killed_replica_costs_time_but_no_answer(url: str, tiny: Bundle) -> None:
    deploy(entry(tiny, num_replicas=2))

    def kill() -> None:
        names = [one["name"] for one in list_named_actors(all_namespaces=True) if "#tiny:1#" in one["name"]]
        assert len(names) == 2
        ray.kill(ray.get_actor(names[0], namespace="serve"))
        time.sleep(3)

    load = Load(url, tiny)
    asyncio.run(under_load(load, 8, kill))
    assert set(load.statuses) == {200}


def test_a_change_of_bundle_fails_nobody(url: str, tiny: Bundle, other: Bundle) -> None:
    deploy(entry(tiny))
    load = Load(url, tiny, other)
    asyncio.run(under_load(load, 8, lambda: deploy(entry(other))))
    assert set(load.statuses) == {200}
    assert (load.models[0], load.models[-1]) == (str(tiny), str(other))


def test_a_version_that_sleeps_is_woken_by_the_first_to_ask(url: str, tiny: Bundle) -> None:
    deploy(entry(tiny, autoscaling={"min": 0, "max": 1}))
    status, answer = asyncio.run(post(f"{url}/v1/score", {"texts": TEXTS}))
    assert (status, len(answer["results"])) == (200, len(TEXTS))


def test_told_to_stop_it_finishes_what_it_has(tiny: Bundle, tmp_path: Path) -> None:
    port = free_port()
    settings = {"bundles": [{**entry(tiny), "reference": str(tiny.folder)}], "http": {"port": port}}
    (tmp_path / "serving.yaml").write_text(yaml.safe_dump(settings))
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "serving", str(tmp_path / "serving.yaml")]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        while "serving on" not in (tmp_path / "log").read_text():
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)

        async def main() -> None:
            url = f"http://127.0.0.1:{port}/v1/score"
            large = asyncio.create_task(post(url, {"texts": TEXTS * 25}))
            await asyncio.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            status, answer = await large
            assert (status, len(answer["results"])) == (200, 1000)

        asyncio.run(main())
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
