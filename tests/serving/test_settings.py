"""The service's YAML: what stands in it is checked, and the error says what would be right."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from cluster.config import SettingsError, load_config, parse_config
from serving.settings import ServingSettings

SHIPPED = Path(__file__).parents[2] / "serving" / "serving.yaml"
ONE = {"name": "starter", "reference": "starter"}


def parse(**settings: Any) -> ServingSettings:
    return parse_config({"bundles": [ONE], **settings}, ServingSettings, "test")


def test_the_shipped_file_can_be_used_and_holds_the_defaults() -> None:
    assert load_config(SHIPPED, (), ServingSettings) == parse()


def test_listens_on_loopback_unless_told() -> None:
    assert (parse().http.host, parse().http.port) == ("127.0.0.1", 8000)


def test_settings_travel() -> None:
    settings = parse(bundles=[{**ONE, "autoscaling": {"min": 0, "max": 4}}])
    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301


def test_versions_of_a_name_stand_in_the_order_of_the_file() -> None:
    bundles = [{**ONE, "share": 0.9}, {"name": "big", "reference": "b"}, {**ONE, "version": "2", "share": 0.1}]
    grouped = parse(bundles=bundles).by_name()
    assert {name: [one.version for one in versions] for name, versions in grouped.items()} == {
        "starter": ["1", "2"],
        "big": ["1"],
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bundels": []}, "unknown key bundels: did you mean bundles?"),
        ({"bundles": []}, "bundles: Tuple should have at least 1 item"),
        ({"bundles": [{"name": "x"}]}, "bundles.0.reference: missing"),
        ({"bundles": [{**ONE, "referense": "x"}]}, "unknown key bundles.0.referense: did you mean reference?"),
        ({"bundles": [{**ONE, "name": "a/b"}]}, "bundles.0.name"),
        ({"bundles": [ONE, ONE]}, "bundles: starter has version '1' twice"),
        ({"bundles": [ONE, {**ONE, "version": "2"}]}, "the shares of starter's versions must sum to 1, got 2"),
        ({"bundles": [{**ONE, "share": 0.5}]}, "must sum to 1, got 0.5"),
        ({"bundles": [{**ONE, "threads": "2"}]}, "bundles.0.threads"),
        ({"bundles": [{**ONE, "num_replicas": 2, "autoscaling": {"max": 3}}]}, "num_replicas or autoscaling, not both"),
        ({"bundles": [{**ONE, "autoscaling": {"min": 3, "max": 2}}]}, "max 2 is under min 3"),
        ({"limits": {"max_texts": 0}}, "limits.max_texts"),
        ({"admission": {"deadline_s": 0}}, "admission.deadline_s"),
        ({"http": {"tls_cert": "a.pem"}}, "tls_cert and tls_key go together"),
        ({"http": {"port": 70000}}, "http.port"),
        ({"http": {"host": "10.0.0.1"}}, "http.host '10.0.0.1' is open to the network: set http.tls_cert and auth."),
        ({"http": {"host": "::"}, "auth": {"keys_file": "k"}}, "set http.tls_cert too, or http.trusted_front: true"),
        ({"http": {"host": "10.0.0.1", "tls_cert": "a", "tls_key": "b"}}, "set auth.keys_file too"),
        ({"ingress": {"listen": {"host": "10.0.0.1"}}}, "ingress.listen.host '10.0.0.1' is open to the network"),
        ({"log_level": "LOUD"}, "log_level"),
    ],
)
def test_a_fault_names_the_field_and_what_would_be_right(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(**settings)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"http": {"host": "10.0.0.1", "tls_cert": "a", "tls_key": "b"}, "auth": {"keys_file": "k"}},
        {"http": {"host": "10.0.0.1", "trusted_front": True}},
        {"http": {"host": "localhost"}},
        {"http": {"host": "::1"}},
        {"ingress": {"listen": {"host": "127.0.0.2"}}},
    ],
)
def test_an_address_that_may_be_open(settings: dict[str, Any]) -> None:
    parse(**settings)


def test_lanes_are_those_of_all_replicas_that_there_may_be() -> None:
    bundles = [
        {**ONE, "threads": 2, "num_replicas": 3},
        {"name": "b", "reference": "b", "threads": 4, "autoscaling": {"min": 0, "max": 5}},
    ]
    assert [one.num_lanes for one in parse(bundles=bundles).bundles] == [6, 20]


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        parse(log_level="LOUD", limits={"max_texts": 0})
    assert str(caught.value).count("\n  - ") == 2


@pytest.mark.parametrize(
    ("text", "words"), [("[1]", "must be a mapping"), ("a: [", "isn't YAML"), ("\x80", "isn't YAML")]
)
def test_a_file_that_is_no_yaml(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "serving.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingsError, match=words):
        load_config(path, (), ServingSettings)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load_config(tmp_path / "none.yaml", (), ServingSettings)
