"""Settings of jobs and service: one YAML, a few `dotted.key=value` overrides, checked at the edge before work starts.

Each describes its settings as a frozen pydantic model; this file reads the YAML, lays the overrides over it, and
turns what doesn't fit into one error that names each field, its value and what would be right.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class Settings(BaseModel):
    """Base of all settings: frozen, strict about types, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


AnySettings = TypeVar("AnySettings", bound=Settings)


class SettingsError(ValueError):
    """Settings that can't be used. One line for each fault."""


def load_config(path: str | Path, overrides: Sequence[str], model: type[AnySettings]) -> AnySettings:
    """Read `path`, lay `overrides` over it, and check the whole.

    Parameters
    ----------
    overrides : `key=value` or `outer.inner=value`; the value is read as YAML (`3`, `true`, `null`, `[a, b]`, text).

    Raises
    ------
    SettingsError : the file can't be read, isn't a YAML mapping, or a field is unknown, missing or wrong.
    """
    data = _read_yaml(Path(path))
    for override in overrides:
        _lay_over(data, override)
    return parse_config(data, model, str(path))


def parse_config(data: dict[str, Any], model: type[AnySettings], source: str) -> AnySettings:
    """Check settings that are already a mapping; `source` names them in errors."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        faults = "\n".join(f"  - {fault}" for fault in _faults(error, model))
        raise SettingsError(f"{source}: settings can't be used:\n{faults}") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"settings file {path} can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path} isn't YAML: {error}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SettingsError(f"settings file {path} must be a mapping of keys to values, got {type(data).__name__}")
    return data


def _lay_over(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise SettingsError(f"override {override!r} must read key=value, for example pool.max_size=4")
    *outer, last = key.split(".")
    for name in outer:
        inner = data.setdefault(name, {})
        if not isinstance(inner, dict):
            raise SettingsError(f"override {override!r}: {name} is the value {inner!r}, so it has no keys below it")
        data = inner
    try:
        data[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SettingsError(f"override {override!r}: the value isn't YAML: {error}") from error


def _faults(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"]) or "settings"
        if fault["type"] == "extra_forbidden":
            yield f"unknown key {where}{_nearest(str(fault['loc'][-1]), _fields_at(model, fault['loc'][:-1]))}"
        elif fault["type"] == "missing":
            yield f"{where}: missing, and it has no default"
        else:
            yield f"{where}: {fault['msg'].removeprefix('Value error, ')} (got {fault['input']!r})"


def _nearest(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f": did you mean {near[0]}?" if near else f": known keys are {', '.join(known)}"


def _fields_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Names of the fields of the (nested, listed, optional) model that an error's location leads to."""
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        candidates = [] if field is None else [field.annotation, *get_args(field.annotation)]
        inner = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)
