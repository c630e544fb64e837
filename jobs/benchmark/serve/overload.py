"""Overload: three times the capacity, due at random moments, whatever the service says.

The generator opens as many connections as it takes, up to a thousand, so that arrivals don't wait for answers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from jobs.benchmark.serve.bench import Bench
from jobs.benchmark.serve.row import ServeRow, Target
from jobs.benchmark.serve.server import Server

_TIMES = 3.0
_CONNECTIONS = 1000
_EVERY_S = 1.0
_GOODPUT, _REFUSAL_MS, _GROWTH = 0.9, 50.0, 1.05
_SETTLED = 0.2  # share of the samples after which memory should stay


@dataclass
class MemoryWatch:
    """Looks at a server's memory once a second."""

    server: Server
    samples: list[int] = field(default_factory=list)
    looked_at: float = 0.0

    def __call__(self) -> bool:
        """Look if it is time; never says that it is enough."""
        if time.monotonic() - self.looked_at >= _EVERY_S:
            self.looked_at = time.monotonic()
            self.samples.append(self.server.own_bytes())
        return False


def overload(bench: Bench, server: Server) -> None:
    """Measure goodput, refusals and memory for each size of request."""
    for size in bench.options.sizes:
        rate, watch = _TIMES * bench.capacity[size], MemoryWatch(server)
        load = bench.our_load(server, size, bench.options.overload_s)
        row, _ = bench.measure("overload", size, replace(load, rate=rate, connections=_CONNECTIONS), meanwhile=watch)
        first, most = settled(watch.samples)
        share = row.texts_per_s / size / bench.capacity[size]
        row = replace(row, rate=rate, share=share, memory_first_bytes=first, memory_last_bytes=most)
        bench.rows.append(row)
        bench.targets += _targets(row, share, most / first)


def settled(samples: Sequence[int]) -> tuple[int, int]:
    """Memory once the load has settled, and the most after."""
    after = samples[int(_SETTLED * len(samples)) :]
    return after[0], max(after)


def _targets(row: ServeRow, share: float, growth: float) -> list[Target]:
    size, refusal_ms = f"{row.size} a request", row.refusal_p99_ms
    wrong = row.num_failed + row.num_wrong
    said = "no refusals" if refusal_ms is None else f"{refusal_ms:.0f} ms (p50 {row.refusal_p50_ms:.0f})"
    is_quick = None if refusal_ms is None else refusal_ms <= _REFUSAL_MS
    return [
        Target(f"goodput at 3 x capacity, {size}", f"{_GOODPUT:.0%}", f"{share:.1%}", share >= _GOODPUT),
        Target(f"refusals at p99, {size}", f"{_REFUSAL_MS:.0f} ms", said, is_quick),
        Target(f"lost in overload, {size}", "0", str(row.num_lost), row.num_lost == 0),
        Target(f"neither 200 nor 429, or wrong, {size}", "0", str(wrong), wrong == 0),
        Target(f"memory over its settled size, {size}", f"{_GROWTH:.2f} x", f"{growth:.3f} x", growth <= _GROWTH),
    ]
