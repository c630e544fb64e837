"""`python -m serving`: what can't work is said at the start, in a line that names the setting, with exit code 2."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.__main__ import main
from serving.settings import HttpSettings
from serving.web.listener import bind
from tests.serving.conftest import entry_named
from tests.serving.started import free_port


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], **settings: Any) -> str:
    path = tmp_path / "serving.yaml"
    path.write_text(yaml.safe_dump({"bundles": [entry_named("starter")], **settings}), encoding="utf-8")
    assert main([str(path)]) == 2
    return capsys.readouterr().err


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(os.environ, "RAY_ADDRESS", raising=False)


def test_jobs_without_a_ray_that_takes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = refused(tmp_path, capsys, jobs={"store": str(tmp_path)})
    assert words.startswith("jobs: are taken by the dashboard of a Ray that runs already")
    assert "set RAY_ADDRESS" in words


def test_a_port_that_somebody_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    with bind(HttpSettings(port=port)) as taken:
        taken.listen()
        words = refused(tmp_path, capsys, http={"port": port})
    assert words == f"http.port {port} of 127.0.0.1 is taken: choose another\n"


def test_two_addresses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = refused(tmp_path, capsys, ingress={"listen": {"port": 9000}})
    assert words == "ingress.listen is for serve run and serve deploy: here give the address under http\n"


def test_an_open_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = refused(tmp_path, capsys, http={"host": "10.0.0.1"})
    assert "http.host '10.0.0.1' is open to the network" in words
