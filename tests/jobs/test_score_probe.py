"""How many actors share a GPU. The GPU is one in name only: the actors compute on the CPU, Ray counts their shares."""

import logging
import time
from pathlib import Path

import pytest
import ray

from cluster.stores import open_store
from jobs.reading.columns import Columns
from jobs.reading.parts import UnitLimits
from jobs.score.layout import SetLayout
from jobs.score.probe import fewest_of_the_best, probe_actors_per_gpu
from jobs.score.recipe import Recipe
from jobs.score.settings import PoolSettings, ScoreSettings
from models.bundle import load_bundle


@pytest.mark.parametrize(
    ("rates", "expected", "tried"),
    [
        ({1: 100.0, 2: 101.0, 4: 50.0, 8: 50.0}, 1, [1, 2]),  # a large trunk fills the device alone
        ({1: 100.0, 2: 190.0, 4: 300.0, 8: 305.0}, 4, [1, 2, 4, 8]),
        ({1: 100.0, 2: 0.0, 4: 400.0, 8: 400.0}, 1, [1, 2]),  # two don't fit its memory
    ],
)
def test_the_fewest_actors_that_are_nearly_as_fast_as_any(
    rates: dict[int, float], expected: int, tried: list[int]
) -> None:
    asked: list[int] = []

    def rate_of(num: int) -> float:
        asked.append(num)
        return rates[num]

    assert fewest_of_the_best(rate_of, 8) == expected
    assert asked == tried


def test_no_more_actors_than_cores_allow() -> None:
    assert fewest_of_the_best(lambda num: num * 100.0, 3) == 2


def recipe(bundle: Path, out: Path) -> Recipe:
    return Recipe(
        bundle=f"{bundle}@{load_bundle(bundle).digest}",
        heads=("sentiment",),
        columns=Columns("id", "text", ()),
        limits=UnitLimits(rows=10, text_bytes=1000),
        layout=SetLayout(open_store(str(out)).root, "tiny", "f"),
        precision="fp32",
        device="cpu",
        token_budget=512,
        threads=1,
    )


def free_again(resource: str, seconds: float = 20) -> float:
    """Ray gives back what a removed placement group held a moment later."""
    deadline = time.monotonic() + seconds
    while resource not in ray.available_resources() and time.monotonic() < deadline:  # type: ignore[no-untyped-call]
        time.sleep(0.1)
    return float(ray.available_resources().get(resource, 0))  # type: ignore[no-untyped-call]


@pytest.mark.ray
@pytest.mark.parametrize("num_gpus", [1, 0])
def test_actors_rehearse_on_one_gpu(num_gpus: int, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.score.probe._REHEARSAL_S", 0.2)
    pool = PoolSettings(num_gpus="auto")
    ray.init(address="local", num_cpus=2, num_gpus=num_gpus, include_dashboard=False, logging_level=logging.ERROR)
    try:
        if num_gpus:
            assert probe_actors_per_gpu(recipe(tiny, tmp_path), pool) in (1, 2)
            assert free_again("GPU") == 1
        else:
            with pytest.raises(ValueError, match=r"needs a node with a GPU and 0.9 cores beside it"):
                probe_actors_per_gpu(recipe(tiny, tmp_path), pool)
    finally:
        ray.shutdown()


def test_a_share_is_a_number_or_auto() -> None:
    with pytest.raises(ValueError, match=r"pool\.num_gpus"):
        ScoreSettings.model_validate(
            {
                "input": "a",
                "output": "b",
                "bundle": "starter",
                "columns": {"id": "id", "text": "t"},
                "pool": {"num_gpus": "all"},
            }
        )
    assert PoolSettings(num_gpus="auto").num_gpus == "auto"
