"""The scoring job as a command line for Ray's job service, which hands it to a shell.

Every value is written as JSON, which the job reads back as the YAML that it also is, and the whole word is quoted for
the shell: neither can end early whatever a client sends. The settings stand on the command line alone, so the cluster
needs no file of ours; the job's YAML is the empty one.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

_NO_YAML = "/dev/null"


def entrypoint(settings: Mapping[str, Any]) -> str:
    """Give the command that scores with these settings."""
    overrides = [f"{name}={_as_yaml(value)}" for name, value in settings.items()]
    return shlex.join(["python", "-m", "jobs.score", _NO_YAML, *overrides])


def _as_yaml(value: Any) -> str:
    """JSON, but with YAML's escapes for what can't be printed: JSON's own come in pairs that YAML doesn't know."""
    return "".join(one if one.isprintable() else f"\\U{ord(one):08x}" for one in json.dumps(value, ensure_ascii=False))
