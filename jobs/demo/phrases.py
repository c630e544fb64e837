"""The word lists of the demo corpus and the little grammar that turns a template into a clause.

The lists are data (`phrases.zh.yaml`, `phrases.en.yaml`): a native reader can mend a phrase without reading code. Two
marks are all there is: `(a|b|c)` takes one alternative, which may be empty or hold marks itself, and `<name>` takes
an entry of `slots.<name>` or a name of the situation. Given up: agreement and inflection; templates are written so that
every alternative fits.
"""

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

_MARK = re.compile(r"\(([^()]*)\)|<([a-z_]+)>")


@dataclass(frozen=True)
class Phrases:
    """The lists of one language under dotted keys: `lists["aspects.phone.screen.positive"]`."""

    lang: str
    lists: Mapping[str, tuple[str, ...]]

    def say(self, rng: random.Random, *keys: str, **names: str) -> str:
        """One expanded template of the lists at `keys` together; `<name>` is one of `names` or else a slot."""

        def fill(mark: re.Match[str]) -> str:
            alternatives: str | None = mark[1]
            slot: str = mark[2]
            if alternatives is not None:
                return rng.choice(alternatives.split("|"))
            return names[slot] if slot in names else rng.choice(self.lists[f"slots.{slot}"])

        text: str = rng.choice([template for key in keys for template in self.lists[key]])
        num_marks = 1
        while num_marks:
            text, num_marks = _MARK.subn(fill, text)
        return text

    def below(self, prefix: str) -> tuple[str, ...]:
        """The next parts of the keys under `prefix`, in the order of the file: below aspects.phone stand its topics."""
        depth = prefix.count(".") + 1
        return tuple(dict.fromkeys(key.split(".")[depth] for key in self.lists if key.startswith(f"{prefix}.")))


@cache
def phrases(lang: str) -> Phrases:
    """The packaged lists of `lang` (`zh` or `en`), read once a process."""
    packaged = resources.files(__package__).joinpath(f"phrases.{lang}.yaml")
    return Phrases(lang, dict(_flat(yaml.safe_load(packaged.read_text(encoding="utf-8")))))


def _flat(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, tuple[str, ...]]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            assert isinstance(value, list), f"{prefix}{name} is no list"
            assert all(isinstance(item, str) for item in value), f"{prefix}{name} holds something that is no text"
            yield f"{prefix}{name}", tuple(value)
