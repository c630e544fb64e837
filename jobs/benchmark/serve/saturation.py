"""Saturation: so many connections, each asks again as soon as it is answered. Gives the capacity of the other parts."""

from __future__ import annotations

from dataclasses import replace

from jobs.benchmark.serve.bench import Bench
from jobs.benchmark.serve.engine import Engine
from jobs.benchmark.serve.errors import ServerError
from jobs.benchmark.serve.row import Target
from jobs.benchmark.serve.server import Server

_AIMS = {True: 0.85, False: 0.6}  # share of the engine: requests of many texts, of one


def saturate(bench: Bench, server: Server) -> None:
    """Measure the capacity for each size of request."""
    for size in bench.options.sizes:
        row, _ = bench.measure("saturation", size, bench.our_load(server, size, bench.options.seconds))
        if not row.texts_per_s:
            raise ServerError(f"the service answered nothing at saturation: {server.last_words()}")
        bench.capacity[size] = row.texts_per_s / size
        bench.rows.append(row)


def compare(bench: Bench, engine: Engine) -> None:
    """Set the rows beside the engine, once that is measured for good."""
    for index, row in enumerate(bench.rows):
        if row.part == "saturation":
            share = row.texts_per_s / engine.texts_per_s
            bench.rows[index] = replace(row, share=share)
            aim = _AIMS[row.size > 1]
            name = f"saturation, {row.size} a request, of the engine"
            bench.targets.append(Target(name, f"{aim:.0%}", f"{share:.1%}", share >= aim))
    precision = bench.options.precision
    bench.facts[f"engine verbatim-{precision}"] = f"{engine.texts_per_s:,.0f} texts/s from token ids"
    bench.facts[f"engine verbatim-{precision}+tokenise"] = f"{engine.texts_per_s_tokenising:,.0f} texts/s from texts"
