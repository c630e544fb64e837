"""Settings errors name the field, its value and what would be right."""

from pathlib import Path

import pytest
from pydantic import Field

from cluster.config import Settings, SettingsError, load_config


class Inner(Settings):
    max_size: int = Field(default=2, ge=1)


class Outer(Settings):
    input: str
    share: float = 0.5
    pool: Inner = Inner()


def load(tmp_path: Path, text: str, *overrides: str) -> Outer:
    path = tmp_path / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides, Outer)


def test_yaml_then_overrides(tmp_path: Path) -> None:
    settings = load(tmp_path, "input: a\npool: {max_size: 3}", "pool.max_size=5", "share=0.25", "input=s3://b/c=d")
    assert settings == Outer(input="s3://b/c=d", share=0.25, pool=Inner(max_size=5))


def test_an_override_may_open_a_section(tmp_path: Path) -> None:
    assert load(tmp_path, "input: a", "pool.max_size=7").pool.max_size == 7


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("inptu: a\ninput: b", (), r"unknown key inptu: did you mean input\?"),
        ("input: a\npool: {maxsize: 3}", (), r"unknown key pool\.maxsize: did you mean max_size\?"),
        ("input: a\nzzz: 1", (), r"unknown key zzz: known keys are input, share, pool"),
        ("share: 0.1", (), r"input: missing, and it has no default"),
        ("input: 3", (), r"input: Input should be a valid string \(got 3\)"),
        ("input: a", ("pool.max_size=many",), r"pool\.max_size: .*valid integer.* \(got 'many'\)"),
        ("input: a", ("pool.max_size=0",), r"pool\.max_size: .*greater than or equal to 1 \(got 0\)"),
        ("input: a", ("pool",), r"must read key=value"),
        ("input: a", ("input.deeper=1",), r"input is the value 'a', so it has no keys below it"),
        ("input: a", ("input=[",), r"the value isn't YAML"),
        ("- a\n- b", (), r"must be a mapping of keys to values, got list"),
        ("input: [", (), r"isn't YAML"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load(tmp_path, text, *overrides)


def test_all_faults_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, "inputs: a\nshare: x")
    assert str(caught.value).count("\n  - ") == 3


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml can't be read: No such file"):
        load_config(tmp_path / "nowhere.yaml", (), Outer)
