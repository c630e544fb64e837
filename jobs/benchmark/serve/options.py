"""What `serve` mode is asked to measure, checked before anything starts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from jobs.benchmark.model import DEFAULT_SHAPE, Shape

PARTS = ("saturation", "latency", "overload", "kill", "peers")
PEERS = ("infinity", "ray-serve-pipeline")
_MOST_SIZE = 1024  # texts a request; the service's own limit by default
_LEAST_SECONDS = 1.0


@dataclass(frozen=True)
class ServeOptions:
    """What to measure.

    `sizes` are texts a request. `seconds` is the length of one measurement. `threads` are the replica's and the
    engine's. `bundle` None: a random trunk of `shape`.
    """

    precision: str
    parts: tuple[str, ...] = PARTS
    peers: tuple[str, ...] = PEERS
    sizes: tuple[int, ...] = (32, 1)
    seconds: float = 20.0
    overload_s: float = 60.0
    rounds: int = 3
    connections: int = 64
    threads: int = 1
    shape: Shape = DEFAULT_SHAPE
    bundle: str | None = None
    texts: Path | None = None
    num_texts: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("seconds", self.seconds), ("overload_seconds", self.overload_s)):
            if value < _LEAST_SECONDS:
                raise ValueError(f"{name} must be at least {_LEAST_SECONDS:g}, got {value:g}")
        if max(self.sizes) > self.num_texts:
            raise ValueError(f"num_texts must be at least {max(self.sizes)}, one request's, got {self.num_texts}")


def choose_parts(names: str) -> tuple[str, ...]:
    """Parts by `all` or a list with commas, in the order in which they are measured.

    Raises
    ------
    ValueError : one that there isn't.
    """
    return _chosen("parts", names, PARTS, "all")


def choose_servers(names: str) -> tuple[str, ...]:
    """Peers by `all`, `none` or a list with commas.

    Raises
    ------
    ValueError : one that there isn't.
    """
    return () if names == "none" else _chosen("peers", names, PEERS, "all, none")


def choose_sizes(sizes: str) -> tuple[int, ...]:
    """Texts a request, by a list with commas.

    Raises
    ------
    ValueError : no number, or out of bounds.
    """
    parts = [part.strip() for part in sizes.split(",")]
    if wrong := [part for part in parts if not part.isdecimal() or not 1 <= int(part) <= _MOST_SIZE]:
        raise ValueError(f"sizes {wrong} can't be used: expected texts a request, 1 to {_MOST_SIZE}, with commas")
    return tuple(dict.fromkeys(map(int, parts)))


def auth_mode() -> str:
    """Ray's authentication in all that is started here: the environment's, else by token."""
    return os.environ.get("RAY_AUTH_MODE", "token")


def _chosen(field: str, names: str, known: tuple[str, ...], words: str) -> tuple[str, ...]:
    wanted = known if names == "all" else [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"{field} {unknown} aren't known: expected {words} or some of {', '.join(known)}")
    return tuple(name for name in known if name in wanted)
