"""Side by side: our service and the peers' servers, all up, one asked at a time: A B C A B C …

Closed loop over a fixed number of requests, the end included, because the slowest peers answer less than one round of
connections in the time. How many is found by a trial, so that each takes about as long.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from statistics import median

from jobs.benchmark.serve.bench import Bench, log
from jobs.benchmark.serve.dialect import Dialect, OurDialect
from jobs.benchmark.serve.errors import ServerError
from jobs.benchmark.serve.firing import fire
from jobs.benchmark.serve.launches import our_launch, peer_launch
from jobs.benchmark.serve.load import Fired
from jobs.benchmark.serve.row import ServeRow, Target, make_row
from jobs.benchmark.serve.server import Launch, Server, started
from jobs.benchmark.serve.summary import summarise
from jobs.benchmark.serve.truth import PEERS_TOLERANCE, Truth, check, score

_AIM = 3.0
_TRIAL_TEXTS, _LEAST_REQUESTS = 256, 4
_LONG_S = 600.0  # nothing here takes so long
_NOTE = "fp32, all cores; its own batching"


@dataclass
class Side:
    """A server that takes part."""

    server: Server
    dialect: Dialect
    truth: Truth
    note: str = ""

    @property
    def name(self) -> str:
        """As in the rows."""
        return self.server.launch.name


def side_by_side(bench: Bench) -> None:
    """Measure all in turns, for each size of request."""
    with opened(bench) as sides:
        for size in bench.options.sizes:
            fired = _play(bench, sides, size)
            rows = {side.name: _row(side, size, fired[side.name]) for side in sides}
            ratios = {name: _ratio(fired["verbatim"], fired[name]) for name in rows if name != "verbatim"}
            rows["verbatim"] = replace(rows["verbatim"], ratio_to=ratios)
            bench.rows += rows.values()
            bench.targets += [
                Target(f"ours over {name}, {size} a request", f"{_AIM:.0f} x", f"{ratio:.2f} x", ratio >= _AIM)
                for name, ratio in ratios.items()
            ]


@contextmanager
def opened(bench: Bench) -> Iterator[list[Side]]:
    """Start ours and the peers; a peer that doesn't start is left out, with the reason."""
    plain = score(bench.model.bundle, bench.texts, "fp32")
    theirs = Truth({str(bench.model.bundle): plain}, PEERS_TOLERANCE)
    with ExitStack() as stack:

        def start(launch: Launch) -> Server:
            log.info("starting %s", launch.name)
            return stack.enter_context(started(launch, bench.folder))

        launch = our_launch(bench.model.bundle, bench.options, bench.folder)
        sides = [Side(start(launch), OurDialect(), bench.truth, bench.options.precision)]
        for name in bench.options.peers:
            launch, dialect = peer_launch(name, bench.model)
            try:
                sides.append(Side(start(launch), dialect, theirs, _NOTE))
            except ServerError as error:
                bench.facts[f"left out: {name}"] = error
                log.warning("%s is left out: %s", name, error)
        yield sides


def _play(bench: Bench, sides: Sequence[Side], size: int) -> dict[str, list[Fired]]:
    """What each did in each round."""
    trial = max(_LEAST_REQUESTS, _TRIAL_TEXTS // size)
    numbers = {side.name: trial for side in sides}
    for side in sides:
        speed = _speed(_fire(bench, side, size, trial))
        numbers[side.name] = max(_LEAST_REQUESTS, round(speed * bench.options.seconds))
    fired = defaultdict[str, list[Fired]](list)
    for number in range(bench.options.rounds):
        log.info("peers, %s texts a request: round %s of %s", size, number + 1, bench.options.rounds)
        for side in sides:
            fired[side.name].append(_fire(bench, side, size, numbers[side.name]))
    return fired


def _fire(bench: Bench, side: Side, size: int, num_requests: int) -> Fired:
    load = bench.load(side.server, side.dialect, size, _LONG_S)
    return fire(replace(load, num_requests=num_requests), bench.folder)


def _row(side: Side, size: int, rounds: Sequence[Fired]) -> ServeRow:
    """Medians of speeds; latencies and counts of all rounds together."""
    outcomes = tuple(outcome for fired in rounds for outcome in fired.outcomes)
    seconds = sum(fired.ended - fired.began for fired in rounds)
    whole = Fired(rounds[0].began, rounds[-1].ended, sum(fired.cpu_s for fired in rounds), outcomes)
    checked = check(outcomes, size, side.dialect, side.truth)
    row = make_row("peers", side.name, size, summarise(whole), checked)
    speed = median(_speed(fired) for fired in rounds)
    return replace(row, texts_per_s=size * speed, generator_share=whole.cpu_s / seconds, note=side.note)


def _ratio(ours: Sequence[Fired], theirs: Sequence[Fired]) -> float:
    """How many times as many requests a second: the median over rounds. Infinite: the peer answered nothing."""
    return median(_speed(a) / _speed(b) if _speed(b) else float("inf") for a, b in zip(ours, theirs, strict=True))


def _speed(fired: Fired) -> float:
    """Answered requests a second."""
    return sum(outcome.status == 200 for outcome in fired.outcomes) / (fired.ended - fired.began)
