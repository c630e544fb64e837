"""Keys: hashed at rest, scoped, read again when the file changes."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.config import SettingsError
from serving.auth import Keyring, digest_of, new_key
from serving.errors import RequestError
from serving.keys import main, make
from tests.serving.clock import Clock


def write(path: Path, *keys: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"keys": list(keys)}), encoding="utf-8")
    return path


def entry(name: str, key: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "sha256": digest_of(key), **more}


def test_a_key_opens_and_everything_else_does_not(tmp_path: Path) -> None:
    ring = Keyring(write(tmp_path / "keys.yaml", entry("shop", "vb_one"), entry("desk", "vb_two")))
    assert ring.check("Bearer vb_one").name == "shop"
    assert ring.check("bearer  vb_two").name == "desk"
    for header in (None, "", "Bearer", "Bearer ", "vb_one", "Basic vb_one", "Bearer vb_on", "Bearer \udc80é" * 99):
        with pytest.raises(RequestError) as caught:
            ring.check(header)
        assert (caught.value.code, caught.value.status) == ("unauthenticated", 401)


def test_the_digest_itself_is_no_key(tmp_path: Path) -> None:
    ring = Keyring(write(tmp_path / "keys.yaml", entry("shop", "vb_one")))
    with pytest.raises(RequestError):
        ring.check(f"Bearer {digest_of('vb_one')}")


def test_a_scope_is_kept(tmp_path: Path) -> None:
    ring = Keyring(write(tmp_path / "keys.yaml", entry("shop", "vb_one", models=["starter"]), entry("all", "vb_two")))
    ring.check("Bearer vb_one").may_use("starter")
    ring.check("Bearer vb_two").may_use("big")
    with pytest.raises(RequestError) as caught:
        ring.check("Bearer vb_one").may_use("big")
    assert (caught.value.status, caught.value.field) == (403, "model")


def test_keys_are_rotated_without_a_restart(tmp_path: Path) -> None:
    clock = Clock()
    path = write(tmp_path / "keys.yaml", entry("shop", "vb_old"))
    ring = Keyring(path, clock)
    write(path, entry("shop", "vb_old"), entry("shop", "vb_new"))
    clock.now += 2
    assert ring.check("Bearer vb_old").name == ring.check("Bearer vb_new").name == "shop"
    write(path, entry("shop", "vb_new"))
    clock.now += 2
    with pytest.raises(RequestError):
        ring.check("Bearer vb_old")


@pytest.mark.parametrize("damage", ["keys: [", "keys: [{name: shop}]", "", None])
def test_a_damaged_file_leaves_the_last_good_keys_in_force(tmp_path: Path, damage: str | None) -> None:
    clock = Clock()
    path = write(tmp_path / "keys.yaml", entry("shop", "vb_one"))
    ring = Keyring(path, clock)
    if damage is None:
        path.unlink()
    else:
        path.write_text(damage, encoding="utf-8")
        os.utime(path, ns=(1, 1))
    clock.now += 2
    assert ring.check("Bearer vb_one").name == "shop"


def test_a_damaged_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="can't be read"):
        Keyring(tmp_path / "none.yaml")
    with pytest.raises(SettingsError, match=r"keys\.0\.sha256"):
        Keyring(write(tmp_path / "keys.yaml", {"name": "shop", "sha256": "vb_one"}))
    with pytest.raises(SettingsError, match="stands there twice"):
        Keyring(write(tmp_path / "keys.yaml", entry("a", "vb_one"), entry("b", "vb_one")))


def test_a_rate_belongs_to_the_name_and_outlives_rotation(tmp_path: Path) -> None:
    clock = Clock()
    path = write(tmp_path / "keys.yaml", entry("shop", "vb_one", tokens_per_minute=60), entry("free", "vb_two"))
    ring = Keyring(path, clock)
    rate = ring.rate(ring.check("Bearer vb_one"))
    assert rate is not None
    rate.spend(120)
    assert ring.rate(ring.check("Bearer vb_two")) is None
    write(path, entry("shop", "vb_new", tokens_per_minute=60))
    clock.now += 2
    again = ring.rate(ring.check("Bearer vb_new"))
    assert again is rate
    with pytest.raises(RequestError):
        again.spend(1)


def test_new_keys_differ_and_their_entries_open(tmp_path: Path) -> None:
    key, text = make("shop", ["starter"], 600)
    path = tmp_path / "keys.yaml"
    path.write_text("keys:\n" + text, encoding="utf-8")
    found = Keyring(path).check(f"Bearer {key}")
    assert (found.name, found.models, found.tokens_per_minute) == ("shop", ("starter",), 600)
    assert key not in text
    assert len({new_key() for _ in range(100)}) == 100


def test_the_command_shows_key_and_entry_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "shop"]) == 0
    shown = capsys.readouterr().out
    key = shown.partition("once: ")[2].partition("\n")[0]
    assert shown.count(key) == 1
    assert digest_of(key) in shown
    assert main(["new", "a b"]) == 2
    assert "name" in capsys.readouterr().err


def test_processes_share_a_rate_evenly(tmp_path: Path) -> None:
    path = write(tmp_path / "keys.yaml", entry("shop", "vb_one", tokens_per_minute=61))
    keyring = Keyring(path, share=2)
    rate = keyring.rate(keyring.check("Bearer vb_one"))
    assert rate is not None
    assert rate.tokens_per_minute == 30
