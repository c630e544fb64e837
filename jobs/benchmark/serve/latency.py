"""Latency at half the measured capacity: requests are due at random moments, and waiting to be sent counts."""

from __future__ import annotations

from dataclasses import replace

from jobs.benchmark.serve.bench import Bench
from jobs.benchmark.serve.engine import Engine
from jobs.benchmark.serve.launches import TOKEN_BUDGET
from jobs.benchmark.serve.row import Target
from jobs.benchmark.serve.server import Server

_SHARE = 0.5
_BATCHES, _MORE_MS = 2, 10.0


def at_half_load(bench: Bench, server: Server) -> None:
    """Measure latencies for each size of request."""
    for size in bench.options.sizes:
        rate = _SHARE * bench.capacity[size]
        load = replace(bench.our_load(server, size, bench.options.seconds), rate=rate)
        row, _ = bench.measure("latency", size, load)
        bench.rows.append(replace(row, rate=rate))


def judge(bench: Bench, engine: Engine) -> None:
    """Hold p99 against the batch time: of a full batch, which is what a request may find at work before it."""
    full_ms = 1e3 * engine.seconds_of(engine.texts_in(TOKEN_BUDGET))
    bench.facts["batch time"] = f"{full_ms:.0f} ms of {TOKEN_BUDGET} tokens"
    for row in bench.rows:
        if row.part == "latency" and row.p99_ms is not None:
            aim_ms = _BATCHES * full_ms + _MORE_MS
            own_ms = 1e3 * engine.seconds_of(row.size)
            measured = f"{row.p99_ms:.0f} ms (its own texts alone: {own_ms:.1f} ms)"
            name = f"p99 at half load, {row.size} a request"
            bench.targets.append(Target(name, f"{aim_ms:.0f} ms", measured, row.p99_ms <= aim_ms))
