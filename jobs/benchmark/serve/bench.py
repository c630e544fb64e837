"""What the parts of `serve` mode share: the model, the texts, what the scorer says of them, what was found so far."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from jobs.benchmark.model import Model
from jobs.benchmark.serve.dialect import Dialect, OurDialect
from jobs.benchmark.serve.firing import fire
from jobs.benchmark.serve.load import Fired, Load
from jobs.benchmark.serve.options import ServeOptions
from jobs.benchmark.serve.row import ServeRow, Target, make_row
from jobs.benchmark.serve.server import Server
from jobs.benchmark.serve.summary import summarise
from jobs.benchmark.serve.truth import Truth, check

log = logging.getLogger("verbatim.benchmark")

WARM_S = 2.0  # at the beginning of a measurement, not counted


@dataclass
class Bench:
    """One run of the mode. `capacity` is requests a second, by texts a request."""

    options: ServeOptions
    model: Model
    texts: tuple[str, ...]
    truth: Truth
    folder: Path
    rows: list[ServeRow] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)
    capacity: dict[int, float] = field(default_factory=dict)

    def load(self, server: Server, dialect: Dialect, size: int, seconds: float) -> Load:
        """A closed loop over all texts, `size` a request; the last few that don't fill one are left out."""
        bodies = tuple(
            dialect.body(self.texts[first : first + size]) for first in range(0, len(self.texts) - size + 1, size)
        )
        port, connections = server.launch.port, self.options.connections
        return Load(port, dialect.path, bodies, seconds, connections, seed=self.options.seed)

    def our_load(self, server: Server, size: int, seconds: float) -> Load:
        """The same for our service, with the warm-up before the seconds that count."""
        return self.load(server, OurDialect(), size, WARM_S + seconds)

    def measure(
        self, part: str, size: int, load: Load, *, meanwhile: Callable[[], bool] = lambda: False
    ) -> tuple[ServeRow, Fired]:
        """Fire at our service, and check every answer."""
        log.info("%s: %s texts a request", part, size)
        fired = fire(load, self.folder, meanwhile)
        checked = check(fired.outcomes, size, OurDialect(), self.truth)
        return make_row(part, "verbatim", size, summarise(fired, WARM_S, load.seconds), checked), fired
