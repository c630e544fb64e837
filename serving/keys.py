"""Make an API key: `python -m serving.keys new NAME [--models a,b] [--tokens-per-minute N]`.

The key is shown once and kept nowhere. What goes into the keys file is its digest, printed ready to be pasted there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import yaml

from cluster.config import SettingsError, parse_config
from serving.auth import Key, digest_of, new_key


def main(arguments: Sequence[str]) -> int:
    """Print a new key and its entry."""
    parser = argparse.ArgumentParser(prog="python -m serving.keys", description=__doc__)
    commands = parser.add_subparsers(required=True)
    new = commands.add_parser("new", help="make a key")
    new.add_argument("name")
    new.add_argument("--models", type=lambda names: names.split(","), help="comma-separated; all if not given")
    new.add_argument("--tokens-per-minute", type=int)
    asked = parser.parse_args(arguments)
    try:
        key, entry = make(asked.name, asked.models, asked.tokens_per_minute)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"# the key, shown this once: {key}\n# under `keys:` in the keys file:\n{entry}")
    return 0


def make(name: str, models: list[str] | None, tokens_per_minute: int | None) -> tuple[str, str]:
    """Give a new key and the YAML of its entry."""
    key = new_key()
    plain = {"name": name, "sha256": digest_of(key), "models": models, "tokens_per_minute": tokens_per_minute}
    given = {field: value for field, value in plain.items() if value is not None}
    parse_config(given, Key, "the new key")
    return key, yaml.safe_dump([given], sort_keys=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
