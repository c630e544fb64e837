"""The token budget and the keys' rates, on a clock that stands still until moved."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.admission import Admission, TokenEstimate, TokenRate
from serving.errors import RequestError
from tests.serving.clock import Clock


def test_the_budget_is_taken_and_given_back() -> None:
    admission = Admission(100, Clock())
    with admission.enter(60):
        assert admission.in_flight == 60
        with admission.enter(40):
            assert admission.in_flight == 100
            with pytest.raises(RequestError) as caught:
                admission.enter(1)
    assert (caught.value.code, caught.value.status, caught.value.retry_after) == ("overloaded", 429, "1")
    assert (admission.in_flight, admission.num_refused) == (0, 1)


def test_it_is_given_back_when_the_request_fails() -> None:
    admission = Admission(100, Clock())
    with pytest.raises(KeyError), admission.enter(60):
        raise KeyError
    assert admission.in_flight == 0


def test_the_real_number_takes_the_estimate_s_place() -> None:
    admission = Admission(100, Clock())
    with admission.enter(60) as ticket:
        ticket.correct(90)
        assert admission.in_flight == 90
        ticket.correct(10)
        assert admission.in_flight == 10
    assert admission.in_flight == 0


def test_a_request_over_the_budget_is_let_in_alone() -> None:
    admission = Admission(100, Clock())
    with admission.enter(500), pytest.raises(RequestError):
        admission.enter(1)
    with admission.enter(1), pytest.raises(RequestError):
        admission.enter(500)


def test_it_refuses_before_reading_only_when_full() -> None:
    admission = Admission(100, Clock())
    with admission.enter(99):
        admission.check()
    with admission.enter(100), pytest.raises(RequestError):
        admission.check()


def test_retry_after_follows_the_speed_of_late() -> None:
    clock = Clock()
    admission = Admission(10_000, clock)
    for _ in range(300):  # 100 tokens a second, long enough for the mean to settle
        clock.now += 1
        with admission.enter(100):
            pass
    with admission.enter(4000):
        assert admission.retry_after_s == pytest.approx(20, rel=0.1), "half of 4,000 tokens at 100 a second"
        clock.now += 1000
        assert admission.retry_after_s == 60, "nothing has come out for long: the most there is"


def test_a_stream_waits_for_room() -> None:
    async def main() -> None:
        admission = Admission(100)
        ticket = admission.enter(80)
        waiting = [asyncio.create_task(admission.wait(50)) for _ in range(2)]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in waiting)
        with ticket:
            pass
        for one in await asyncio.gather(*waiting):
            with one:
                assert admission.in_flight <= 100
        assert admission.in_flight == 0

    asyncio.run(main())


@given(st.lists(st.integers(1, 200)))
def test_the_budget_is_never_exceeded_but_by_one_alone(sizes: list[int]) -> None:
    admission = Admission(100, Clock())
    taken = []
    for size in sizes:
        try:
            taken.append(admission.enter(size))
        except RequestError:
            assert admission.in_flight + size > 100
        assert admission.in_flight <= 100 or len(taken) == 1
    for ticket in taken:
        with ticket:
            pass
    assert admission.in_flight == 0


def test_estimates_go_by_bytes_and_stop_at_the_model_s_length() -> None:
    estimate = TokenEstimate()
    assert estimate([], 512) == 0
    assert estimate([""], 512) == 2
    assert estimate(["a" * 100], 512) == 2 + 30
    assert estimate(["好" * 100], 512) == 2 + 90
    assert estimate(["a" * 100_000, "a" * 10], 512) == 512 + 5


def test_estimates_learn() -> None:
    estimate = TokenEstimate()
    for _ in range(500):
        estimate.learn(text_bytes=1000, num_texts=5, num_tokens=510)
    assert estimate.tokens_per_byte == pytest.approx(0.5, rel=1e-3)
    estimate.learn(text_bytes=0, num_texts=0, num_tokens=0)
    assert estimate.tokens_per_byte == pytest.approx(0.5, rel=1e-3)


def test_a_rate_refills_evenly_and_says_when() -> None:
    clock = Clock()
    rate = TokenRate(600, clock)
    rate.spend(600)
    with pytest.raises(RequestError) as caught:
        rate.spend(1)
    assert (caught.value.code, caught.value.retry_after) == ("rate_limited", "1")
    clock.now += 1
    rate.spend(10)
    clock.now += 3600
    rate.spend(600)
    with pytest.raises(RequestError):
        rate.spend(1)


def test_a_request_over_a_minute_s_allowance_is_paid_off_by_waiting() -> None:
    clock = Clock()
    rate = TokenRate(600, clock)
    rate.spend(1800)
    with pytest.raises(RequestError) as caught:
        rate.spend(1)
    assert caught.value.retry_after_s == pytest.approx(120.1)
    clock.now += 121
    rate.spend(1)


def test_a_rate_is_corrected_by_the_real_number() -> None:
    rate = TokenRate(600, Clock())
    rate.spend(600)
    rate.correct(-590)
    rate.spend(590)
    with pytest.raises(RequestError):
        rate.spend(1)
