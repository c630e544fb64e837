"""Reading the service's YAML: frozen, typed, checked at the edge; an unknown key is an error that names the nearest.

One line for each fault, with the field, its value and what would be right, as the jobs' settings have it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class Settings(BaseModel):
    """Base of all settings here: frozen, strict about types, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


AnySettings = TypeVar("AnySettings", bound=Settings)


class SettingsError(ValueError):
    """Settings that can't be used. One line for each fault."""


def load_settings(path: str | Path, model: type[AnySettings]) -> AnySettings:
    """Read a YAML file.

    Raises
    ------
    SettingsError : the file can't be read, isn't a YAML mapping, or a field is unknown, missing or wrong.
    """
    return parse_settings(_read_yaml(Path(path)), model, str(path))


def parse_settings(data: dict[str, Any], model: type[AnySettings], source: str) -> AnySettings:
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
    if not isinstance(data, dict):
        raise SettingsError(f"settings file {path} must be a mapping of keys to values, got {type(data).__name__}")
    return data


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
