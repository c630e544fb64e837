"""The token budget of a set of scores, found on the device of one actor before the first of them starts.

Some seconds once a set: the ledger keeps what was found, and every later run of the set goes on with it.
"""

from __future__ import annotations

import ray

from jobs.score.pipeline import cpus_of_actor
from jobs.score.recipe import Recipe
from jobs.score.scoring import build_scorer
from jobs.score.settings import PoolSettings
from models.probe import SMALLEST, find_token_budget


def probe_token_budget(recipe: Recipe, pool: PoolSettings) -> int:
    """Run the probe where an actor would run."""
    task = ray.remote(num_cpus=cpus_of_actor(recipe, pool), num_gpus=pool.num_gpus)(_probe)
    found: int = ray.get(task.remote(recipe))
    return found


def _probe(recipe: Recipe) -> int:
    return find_token_budget(build_scorer(recipe, SMALLEST))
