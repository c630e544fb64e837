"""Several workers by Ray Train: each is one process with a place in a process group, on CPU (gloo) or GPU (nccl).

A worker that dies takes the others with it; Ray Train starts all anew and they go on from the last checkpoint, at most
`max_failures` times. What isn't a failure of a machine (a loss that is no number) is told as a result, since it would
happen again.
"""

from __future__ import annotations

import os
from typing import Any

import ray
import torch
from torch import distributed

from cluster.pools import room_for
from jobs.train.crew import Crew
from jobs.train.heap import keep_memory
from jobs.train.loop import TrainingError
from jobs.train.pretrain_settings import PretrainError
from jobs.train.trainer import Job, Trainer


def check_room(workers: int, *, is_gpu: bool) -> None:
    """Refuse more workers than the cluster has cores or GPUs for; must be connected to a Ray.

    Raises
    ------
    PretrainError : Ray Train would wait for ever.
    """
    if (room := room_for(1, float(is_gpu))) < workers:
        kind = "GPUs" if is_gpu else "cores"
        raise PretrainError(f"workers is {workers}, but the cluster has room for {room}: one for each of its {kind}")


def run_team(job: Job, device: str) -> None:
    """Train with `settings.workers` workers; must be connected to a Ray.

    Raises
    ------
    TrainingError : training broke off.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig  # noqa: PLC0415 - an extra
    from ray.train.torch import TorchConfig, TorchTrainer  # noqa: PLC0415 - an extra
    from ray.train.v2.api.exceptions import TrainingFailedError  # noqa: PLC0415 - an extra

    settings, is_gpu = job.settings, device == "cuda"
    trainer = TorchTrainer(
        work,
        train_loop_config={"job": ray.put(job), "device": device},
        torch_config=TorchConfig(backend="nccl" if is_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=settings.workers, use_gpu=is_gpu, resources_per_worker={"CPU": 1, "GPU": float(is_gpu)}
        ),
        run_config=RunConfig(
            name=settings.name,
            storage_path=f"{_absolute(settings.output)}/ray",
            failure_config=FailureConfig(max_failures=settings.max_failures),
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        raise TrainingError(f"the workers failed: {error}") from error
    if failure := (result.metrics or {}).get("failure"):
        raise TrainingError(str(failure))


def work(config: dict[str, Any]) -> None:
    """What each worker runs."""
    from ray import train  # noqa: PLC0415 - an extra
    from ray.train.torch import get_device  # noqa: PLC0415 - an extra

    job: Job = ray.get(config["job"])
    torch.set_num_threads(job.settings.threads or int(os.environ.get("OMP_NUM_THREADS", "1")))
    keep_memory()
    device = get_device() if config["device"] == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    failure = ""
    try:
        Trainer(job, Crew(distributed.get_rank(), distributed.get_world_size(), device)).run()
    except TrainingError as error:
        failure = str(error)
    train.report({"failure": failure})


def _absolute(output: str) -> str:
    return output if "://" in output else os.path.abspath(output)  # noqa: PTH100 - a URI or a path
