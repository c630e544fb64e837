"""What is best found on the device itself, before the first actor starts: the token budget, and actors on one GPU.

Some seconds once a set: the ledger keeps what was found, and every later run of the set goes on with it. A small trunk
leaves a GPU waiting for the host, so several actors share one; a large trunk fills it alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.pools import cores_per_gpu
from jobs.score.pipeline import cpus_of_actor
from jobs.score.recipe import Recipe
from jobs.score.scoring import build_scorer
from jobs.score.settings import PoolSettings
from models.probe import NEARLY, SMALLEST, find_token_budget, tokens_per_s

_MOST = 8  # actors on one GPU
_REHEARSAL_S = 3.0


def probe_token_budget(recipe: Recipe, pool: PoolSettings) -> int:
    """Run the probe where an actor would run, with the GPU for itself if the share is still to be found."""
    num_gpus = 1 if pool.num_gpus == "auto" else pool.num_gpus
    task = ray.remote(num_cpus=cpus_of_actor(recipe, pool), num_gpus=num_gpus)(_probe)
    found: int = ray.get(task.remote(recipe))
    return found


def _probe(recipe: Recipe) -> int:
    return find_token_budget(build_scorer(recipe, SMALLEST))


def probe_actors_per_gpu(recipe: Recipe, pool: PoolSettings) -> int:
    """Let 1, 2, 4, … actors score made-up texts on one GPU at once.

    Raises
    ------
    ValueError : the cluster has no GPU now.
    """
    num_cpus = cpus_of_actor(recipe, pool)
    room = int(cores_per_gpu() // num_cpus)
    if room < 1:
        raise ValueError(
            f"pool.num_gpus auto needs a node with a GPU and {num_cpus:g} cores beside it, and the cluster has none "
            "now: give a number, and the pool waits for one"
        )
    return fewest_of_the_best(lambda num: _rate_together(recipe, num, num_cpus), min(room, _MOST))


def fewest_of_the_best(rate_of: Callable[[int], float], most: int) -> int:
    """Double the number while that is faster; of those nearly as fast as the best, the fewest."""
    rates = {1: rate_of(1)}
    while (num := 2 * max(rates)) <= most:
        rates[num] = rate_of(num)
        if rates[num] * NEARLY < rates[num // 2]:
            break
    return min(num for num, rate in rates.items() if rate >= NEARLY * max(rates.values()))


def _rate_together(recipe: Recipe, num: int, num_cpus: float) -> float:
    """Tokens a second of `num` actors on one GPU."""
    group = placement_group([{"GPU": 1, "CPU": num * num_cpus}])
    strategy = PlacementGroupSchedulingStrategy(group)
    try:
        actor: Any = ray.remote(num_cpus=num_cpus, num_gpus=1 / num, scheduling_strategy=strategy)(Rehearsal)
        actors = [actor.remote(recipe) for _ in range(num)]
        ray.get([one.rate.remote(0.0) for one in actors])  # all have loaded and warmed up
        return float(sum(ray.get([one.rate.remote(_REHEARSAL_S) for one in actors])))
    finally:
        remove_placement_group(group)


class Rehearsal:
    """An actor that scores made-up texts, as fast as it can beside the others."""

    def __init__(self, recipe: Recipe) -> None:
        assert recipe.token_budget is not None, "the budget is found first"
        self._scorer = build_scorer(recipe, recipe.token_budget)

    def rate(self, seconds: float) -> float:
        """Tokens a second over at least so long; 0 if the device's memory isn't enough for all."""
        return tokens_per_s(self._scorer, seconds)
