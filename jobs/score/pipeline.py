"""The job's data flow on Ray Data: spans -> units of tokens -> written units of scores, and their receipts.

Reads are CPU tasks; the model sits in an actor pool that grows to what the cluster has, and its actors write. A unit is
one row of one block (`target_max_block_size` of 1 byte keeps Ray from gathering several). Receipts come back as units
are written, in any order.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from cluster.pools import num_cores, room_for
from jobs.score.recipe import Recipe, SpanTask
from jobs.score.scoring import AT_HAND, ScoreUnit
from jobs.score.settings import PoolSettings
from jobs.score.tokenise import read_units

_READ_TASK_BYTES = 64 * 2**20  # small files share a task up to this much
_ACTOR_BYTES = 2**20  # input worth an actor of its own: a few units
_READ_CPUS = 0.1  # of a read task: scoring costs far more, so these fit beside it
_ACTOR_SHARE = 0.9  # of a core for each compute thread of an actor, the rest is for reading


def receipts(
    recipe: Recipe, tasks: Sequence[SpanTask], pool: PoolSettings, num_gpus: float
) -> Iterator[list[dict[str, Any]]]:
    """Do the missing units of `tasks`, and give the receipts of what has been written, a few at a time.

    `num_gpus` is one actor's, whatever `pool` left to a probe.
    """
    _configure()
    chunks = _share_tasks(tasks)
    num_cpus = cpus_of_actor(recipe, pool)
    min_size = pool.min_size or _enough(room_for(num_cpus, num_gpus), pool.max_size, tasks)
    written = ray.data.read_datasource(
        SpanSource(recipe, chunks),
        override_num_blocks=len(chunks),
        compute=ray.data.TaskPoolStrategy(size=num_cores()),  # tasks this small would else come ten to a core
        num_cpus=_READ_CPUS,
    ).map_batches(
        ScoreUnit,
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_args=(recipe,),
        compute=ray.data.ActorPoolStrategy(
            min_size=min_size,
            max_size=pool.max_size,
            enable_true_multi_threading=True,
            max_concurrent_calls_per_actor=AT_HAND,
        ),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )
    for batch in written.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield batch.to_pylist()


def cpus_of_actor(recipe: Recipe, pool: PoolSettings) -> float:
    """Cores that Ray sets aside for one actor."""
    return pool.num_cpus or recipe.threads * _ACTOR_SHARE


def _enough(room: int, max_size: int | None, tasks: Sequence[SpanTask]) -> int:
    """Actors to start with: all that fit, but no more than there is work for or the settings allow."""
    enough = 1 + sum(task.num_bytes for task in tasks) // _ACTOR_BYTES
    return min(room, enough, max_size or enough)


class SpanSource(Datasource):
    """Read tasks that give one block a unit."""

    def __init__(self, recipe: Recipe, chunks: Sequence[tuple[SpanTask, ...]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recipe, self._chunks = recipe, chunks

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown: what a compressed file holds isn't known before it is read."""
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        """One task for each chunk of spans."""
        return [
            ReadTask(
                partial(read_units, self._recipe, chunk),
                BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None),
            )
            for chunk in self._chunks
        ]


def _share_tasks(tasks: Sequence[SpanTask]) -> list[tuple[SpanTask, ...]]:
    """Put neighbouring spans together until they are worth a task; the largest chunks first, so none trails behind."""
    chunks: list[list[SpanTask]] = []
    room = -1
    for task in tasks:
        if task.num_bytes > room:
            chunks.append([])
            room = _READ_TASK_BYTES
        chunks[-1].append(task)
        room -= task.num_bytes
    chunks.sort(key=lambda chunk: -sum(task.num_bytes for task in chunk))
    return [tuple(chunk) for chunk in chunks]


def _configure() -> None:
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # so that a user reads "disk full", not "UDF failed"
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # One read task gives many units, so limits over the number of read tasks are right, whatever Ray warns.
    warnings.filterwarnings("ignore", message="The m(in|ax)imum number of concurrent")
