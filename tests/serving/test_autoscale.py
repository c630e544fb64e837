"""The need for replicas, and a day of bursts through Serve's own delays and bounds."""

import math
from typing import Any

import pytest
from ray.serve._private.autoscaling_state import _apply_autoscaling_config
from ray.serve._private.common import DeploymentID
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from serving.autoscale import TokenBacklogPolicy, desired_replicas

SPEED = 1000.0  # tokens a second of a simulated replica


def desired(backlog: float, arriving: float, speed: float = SPEED, current: int = 10) -> int:
    return desired_replicas(backlog, arriving, speed, current=current, target_backlog_s=2.0, target_utilisation=0.5)


@pytest.mark.parametrize(
    ("backlog", "arriving", "replicas"),
    [
        (0, 0, 0),  # nothing to do
        (0, 1, 1),
        (0, 500, 1),  # one replica, half busy
        (0, 501, 2),
        (2000, 0, 2),  # 1,000 a second to clear it in two seconds
        (4000, 3000, 10),
        (10**9, 0, 40),  # never more than four times as many in a step
    ],
)
def test_the_need(backlog: float, arriving: float, replicas: int) -> None:
    assert desired(backlog, arriving) == replicas


def test_nothing_changes_before_a_speed_is_known() -> None:
    assert desired(5000, 100, speed=0, current=3) == 3
    assert desired(5000, 100, speed=0, current=0) == 1


def test_the_policy_travels_to_serve_s_controller_with_its_settings() -> None:
    policy = AutoscalingPolicy(
        policy_function="serving.autoscale:TokenBacklogPolicy",
        policy_kwargs={"target_backlog_s": 1.0, "target_utilisation": 0.7},
    )
    context = Day(min_replicas=1).context(0, running=1, arriving=1400.0)
    assert policy.get_policy()(**policy.policy_kwargs)(context) == (2, {})


def arriving_at(second: int) -> float:
    """Tokens a second over a day: a quiet night, a busy day, and a burst of five minutes at noon and at seven."""
    hour = second / 3600
    day = 0.0 if hour < 6 else 4000 * max(0.0, math.sin(math.pi * (hour - 6) / 18))
    return day + (8000.0 if 12 <= hour < 12 + 5 / 60 or 19 <= hour < 19 + 5 / 60 else 0.0)


class Day:
    """A day in steps of five seconds. A new replica takes 20 s to start; one that leaves is gone at once."""

    STEP_S, START_S = 5, 20

    def __init__(self, **config: Any) -> None:
        self.config = AutoscalingConfig(look_back_period_s=15, **config)
        self.policy = _apply_autoscaling_config(TokenBacklogPolicy(target_backlog_s=2.0, target_utilisation=0.7))
        self.backlog, self.state = 0.0, dict[str, Any]()
        self.target, self.ready_at = self.config.min_replicas, [0] * self.config.min_replicas
        self.running: list[int] = []
        self.waits: list[float] = []
        self.replica_s = 0.0

    def run(self) -> None:
        for now in range(0, 24 * 3600, self.STEP_S):
            running = sum(ready <= now for ready in self.ready_at)
            arriving = arriving_at(now)
            self.backlog = max(0.0, self.backlog + self.STEP_S * (arriving - running * SPEED))
            self.running.append(running)
            self.waits.append(self.backlog / SPEED / running if running else 0.0)
            self.replica_s += len(self.ready_at) * self.STEP_S
            self.scale(now, running, arriving)

    def scale(self, now: int, running: int, arriving: float) -> None:
        self.target, self.state = self.policy(self.context(now, running, arriving))
        self.target = min(self.config.max_replicas, max(self.config.min_replicas, self.target))
        self.ready_at = self.ready_at[: self.target]
        self.ready_at += [now + self.START_S] * (self.target - len(self.ready_at))

    def context(self, now: int, running: int, arriving: float) -> AutoscalingContext:
        waits_at_the_door = 1.0 if arriving and not running else 0.0
        said = {"backlog_tokens": self.backlog, "arriving_tokens_per_s": arriving, "tokens_per_s": SPEED}
        return AutoscalingContext(
            deployment_id=DeploymentID("starter", "verbatim"),
            deployment_name="starter",
            app_name="verbatim",
            current_num_replicas=len(self.ready_at),
            target_num_replicas=self.target,
            running_replicas=[],
            total_num_requests=waits_at_the_door,
            total_queued_requests=waits_at_the_door,
            aggregated_metrics={name: {"r": value} for name, value in said.items()} if running else {},
            raw_metrics={},
            capacity_adjusted_min_replicas=self.config.min_replicas,
            capacity_adjusted_max_replicas=self.config.max_replicas,
            policy_state=self.state,
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=now,
            config=self.config,
        )


@pytest.fixture
def passing_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve's delays look at the wall clock; in a simulated day every look is five seconds after the last."""
    looks = iter(range(0, 10**9, Day.STEP_S))
    monkeypatch.setattr("ray.serve.autoscaling_policy.time.time", lambda: float(next(looks)))


@pytest.mark.usefixtures("passing_time")
def test_a_bursty_day() -> None:
    day = Day(min_replicas=1, max_replicas=32, upscale_delay_s=5, downscale_delay_s=120)
    day.run()
    assert day.backlog == 0, "nothing is left at midnight"
    assert max(day.waits) < 60, "a burst of three times the load waits for starts, not for the day"
    calm = sorted(day.waits)[: int(0.97 * len(day.waits))]
    assert max(calm) < 2, "outside bursts the backlog is under its target"
    needed_s = sum(arriving_at(now) for now in range(0, 24 * 3600, 5)) * 5 / SPEED
    assert day.replica_s < 2 * needed_s, "replicas that are paid for are mostly busy"
    changes = sum(a != b for a, b in zip(day.running, day.running[1:], strict=False))
    assert changes < 100, "it doesn't flap"


@pytest.mark.usefixtures("passing_time")
def test_nobody_is_up_at_night_where_zero_is_allowed() -> None:
    day = Day(min_replicas=0, max_replicas=32, upscale_delay_s=5, downscale_delay_s=120, downscale_to_zero_delay_s=600)
    day.run()
    at_four = day.running[4 * 3600 // Day.STEP_S]
    at_seven = day.running[7 * 3600 // Day.STEP_S]
    assert at_four == 0
    assert at_seven >= 1, "the first to ask in the morning wakes it"
    assert day.backlog == 0
