"""The batcher over a scorer with known answers: what shares a batch, who goes first, who gets which error."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from models.tokeniser import Tokens
from serving.batcher import Answered, Batcher, DeadlineError, QueueFullError

POISON = 666


def tokens(*lengths: int, value: int = 1) -> Tokens:
    """Texts of these lengths, each of one repeated token: value, value + 1, …"""
    ids = [np.full(length, value + place, np.int32) for place, length in enumerate(lengths)]
    flat = np.concatenate(ids) if ids else np.empty(0, np.int32)
    return Tokens(flat, np.array(lengths, np.int32), np.zeros(len(lengths), np.bool_))


def first_tokens(answered: Answered) -> list[int]:
    found: list[int] = answered.table["first"].to_pylist()
    return found


class GatedScorer:
    """Answers each text with its first token. A batch begins only when the gate is open; the poisoned one fails."""

    def __init__(self) -> None:
        self.gate, self.begun = threading.Event(), threading.Event()
        self.batches: list[list[int]] = []  # lengths
        self.values: list[list[int]] = []
        self.gate.set()

    def __call__(self, batch: Tokens) -> pa.Table:
        self.begun.set()
        assert self.gate.wait(10)
        starts = np.cumsum(batch.lengths) - batch.lengths
        first = [int(batch.ids[start]) for start in starts]
        self.batches.append(batch.lengths.tolist())
        self.values.append(first)
        if POISON in first:
            raise RuntimeError("poisoned")
        return pa.table({"first": pa.array(first, pa.int64())})


Body = Callable[[Batcher, GatedScorer], Awaitable[None]]


def run(body: Body, *, token_budget: int = 100, queue_tokens: int = 10_000, num_lanes: int = 1) -> GatedScorer:
    scorer = GatedScorer()

    async def main() -> None:
        with ThreadPoolExecutor(num_lanes) as executor:
            batcher = Batcher(
                scorer, executor, token_budget=token_budget, queue_tokens=queue_tokens, num_lanes=num_lanes
            )
            try:
                await asyncio.wait_for(body(batcher, scorer), 20)
            finally:
                scorer.gate.set()

    asyncio.run(main())
    return scorer


async def hold(batcher: Batcher, scorer: GatedScorer) -> asyncio.Task[Answered]:
    """Put a text of one token on the device and keep it there, so that what comes next queues."""
    scorer.gate.clear()
    scorer.begun.clear()
    task = asyncio.create_task(batcher.submit(tokens(1, value=-1), 10))
    await asyncio.to_thread(scorer.begun.wait, 10)
    return task


async def queued(batcher: Batcher, *requests: Tokens) -> list[asyncio.Task[Answered]]:
    tasks = [asyncio.create_task(batcher.submit(request, 10)) for request in requests]
    await asyncio.sleep(0)
    return tasks


def test_an_idle_device_starts_at_once_and_answers_in_order() -> None:
    async def body(batcher: Batcher, scorer: GatedScorer) -> None:
        answered = await batcher.submit(tokens(3, 1, 2, value=7), 10)
        assert first_tokens(answered) == [7, 8, 9]
        assert batcher.queue_tokens == 0

    assert run(body).batches == [[3, 1, 2]]


def test_what_waits_shares_the_next_batch() -> None:
    async def body(batcher: Batcher, scorer: GatedScorer) -> None:
        held = await hold(batcher, scorer)
        tasks = await queued(batcher, tokens(5, value=10), tokens(6, 7, value=20), tokens(8, value=30))
        assert batcher.queue_tokens == 26
        scorer.gate.set()
        answers = await asyncio.gather(held, *tasks)
        assert [first_tokens(answer) for answer in answers] == [[-1], [10], [20, 21], [30]]
        assert batcher.queue_tokens == 0

    assert sorted(run(body).batches[1]) == [5, 6, 7, 8]


@pytest.mark.parametrize(("deadline_s", "first"), [(30.0, 20), (0.6, 10)])
def test_who_has_waited_for_half_of_its_time_goes_first(deadline_s: float, first: int) -> None:
    async def body(batcher: Batcher, scorer: GatedScorer) -> None:
        held = await hold(batcher, scorer)
        large = asyncio.create_task(batcher.submit(tokens(90, value=10), deadline_s))
        await asyncio.sleep(0.35)
        small = await queued(batcher, tokens(20, value=20))
        scorer.gate.set()
        answers = await asyncio.gather(held, large, *small)
        assert [first_tokens(answer) for answer in answers] == [[-1], [10], [20]]
        assert batcher.queue_tokens == 0

    assert run(body).values[1][0] == first


def test_batches_are_cut_by_tokens_and_a_text_over_the_budget_goes_alone() -> None:
    async def body(batcher: Batcher, scorer: GatedScorer) -> None:
        answered = await batcher.submit(tokens(60, 60, 250, 40, 60, value=1), 10)
        assert first_tokens(answered) == [1, 2, 3, 4, 5]

    assert run(body).batches == [[60], [60], [250], [40, 60]]


def test_a_large_request_is_passed_by_single_texts() -> None:
    async def body(batcher: Batcher, scorer: GatedScorer) -> None:
        held = await hold(batcher, scorer)
        (large,) = await queued(batcher, tokens(*[10] * 1000, value=1000))
        singles = await queued(batcher, *[tokens(10, value=5) for _ in range(8)])
        scorer.gate.set()
        await asyncio.gather(held, *singles)
        assert not large.done()
        assert first_tokens(await large) == list(range(1000, 2000))

    values = run(body, token_budget=100, queue_tokens=100_000).values
    assert values[1] == [5] * 8 + [1000, 1001], "all singles are in the very next batch, which is filled up"


def test_a_large_request_is_not_starved_by_singles_that_never_cease() -> None:
    async def body(batcher: Batcher, scorer: GatedScorer) -> None:
        async def client() -> None:
            while not large.done():
                await batcher.submit(tokens(10, value=5), 10)

        held = await hold(batcher, scorer)
        (large,) = await queued(batcher, tokens(*[10] * 50, value=1000))
        clients = [asyncio.create_task(client()) for _ in range(20)]  # twice what a batch holds
        await asyncio.sleep(0)
        scorer.gate.set()
        await asyncio.gather(held, large, *clients)

    num_batches = len(run(body).batches)
    assert 50 < num_batches < 150, "an even share among 21 is 1/21 of each batch: about 105 batches"


def test_equal_requests_are_served_first_come_first_served() -> None:
    async def body(batcher: Batcher, scorer: GatedScorer) -> None:
        held = await hold(batcher, scorer)
        tasks = await queued(batcher, *[tokens(50, 50, value=10 * n) for n in range(1, 6)])
        scorer.gate.set()
        await asyncio.gather(held, *tasks)

    assert run(body).values[1:] == [[10, 11], [20, 21], [30, 31], [40, 41], [50, 51]]


def test_a_cancelled_request_leaves_the_queue() -> None:
    async def body(batcher: Batcher, scorer: GatedScorer) -> None:
        held = await hold(batcher, scorer)
        first, second = await queued(batcher, tokens(10, value=10), tokens(10, value=20))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert batcher.queue_tokens == 10
        scorer.gate.set()
        assert first_tokens(await second) == [20]
        await held

    assert run(body).values == [[-1], [20]]


def test_a_request_cancelled_halfway_takes_its_rest_along() -> None:
    async def body(batcher: Batcher, scorer: GatedScorer) -> None:
        scorer.gate.clear()
        (large,) = await queued(batcher, tokens(*[100] * 5))
        await asyncio.to_thread(scorer.begun.wait, 10)
        assert batcher.queue_tokens == 400
        large.cancel()
        with pytest.raises(asyncio.CancelledError):
            await large
        assert batcher.queue_tokens == 0
        scorer.gate.set()
        assert first_tokens(await batcher.submit(tokens(1, value=8), 10)) == [8]

    assert run(body).batches == [[100], [1]]


def test_a_deadline_takes_texts_out_of_the_queue() -> None:
    async def body(batcher: Batcher, scorer: GatedScorer) -> None:
        held = await hold(batcher, scorer)
        with pytest.raises(DeadlineError, match=r"0\.05 s"):
            await batcher.submit(tokens(10, value=10), 0.05)
        assert batcher.queue_tokens == 0
        scorer.gate.set()
        await held

    assert run(body).values == [[-1]]


def test_a_deadline_that_has_passed_already() -> None:
    async def body(batcher: Batcher, scorer: GatedScorer) -> None:
        with pytest.raises(DeadlineError):
            await batcher.submit(tokens(10), -1)
        assert batcher.queue_tokens == 0

    run(body)


def test_a_failure_reaches_only_the_request_it_belongs_to() -> None:
    async def body(batcher: Batcher, scorer: GatedScorer) -> None:
        held = await hold(batcher, scorer)
        good, bad, other = await queued(batcher, tokens(3, value=1), tokens(3, value=POISON), tokens(3, value=9))
        scorer.gate.set()
        assert first_tokens(await good) == [1]
        assert first_tokens(await other) == [9]
        with pytest.raises(RuntimeError, match="poisoned"):
            await bad
        await held
        assert batcher.queue_tokens == 0
        assert batcher.stats.num_failed_in_a_row == 0

    run(body)


def test_a_request_that_fails_halfway_takes_its_rest_along() -> None:
    async def body(batcher: Batcher, scorer: GatedScorer) -> None:
        with pytest.raises(RuntimeError, match="poisoned"):
            await batcher.submit(tokens(100, 100, 100, value=POISON), 10)
        assert batcher.queue_tokens == 0
        assert batcher.stats.num_failed_in_a_row == 1
        assert first_tokens(await batcher.submit(tokens(1, value=4), 10)) == [4]
        assert batcher.stats.num_failed_in_a_row == 0

    assert run(body).batches == [[100], [1]]


def test_the_queue_is_bounded_in_tokens_but_an_empty_one_takes_all() -> None:
    async def body(batcher: Batcher, scorer: GatedScorer) -> None:
        held = await hold(batcher, scorer)
        (large,) = await queued(batcher, tokens(500))
        with pytest.raises(QueueFullError) as caught:
            await batcher.submit(tokens(1), 10)
        assert caught.value.retry_after_s > 0
        scorer.gate.set()
        await asyncio.gather(held, large)

    run(body, queue_tokens=50)


def test_lanes_work_at_once_and_parts_come_back_in_order() -> None:
    async def body(batcher: Batcher, scorer: GatedScorer) -> None:
        held = await hold(batcher, scorer)
        (second,) = await queued(batcher, tokens(90, 80, value=10))
        await asyncio.sleep(0.01)
        (third,) = await queued(batcher, tokens(1, value=30))
        assert batcher.queue_tokens == 81, "the other lane has taken what fits, and no lane is left"
        assert batcher.busy_since is not None
        scorer.gate.set()
        assert [first_tokens(answer) for answer in await asyncio.gather(held, second, third)] == [[-1], [10, 11], [30]]

    assert len(run(body, num_lanes=2).batches) == 3


def test_lanes_never_mix_answers() -> None:
    async def body(batcher: Batcher, scorer: GatedScorer) -> None:
        rng = np.random.default_rng(1)
        asked = [tokens(*rng.integers(1, 120, size=20), value=1000 * n) for n in range(100)]
        for n, answer in enumerate(await asyncio.gather(*(batcher.submit(one, 20) for one in asked))):
            assert first_tokens(answer) == list(range(1000 * n, 1000 * n + 20))

    run(body, queue_tokens=10**9, num_lanes=3)


def test_offsets_go_with_their_texts() -> None:
    seen: list[Tokens] = []

    def score(batch: Tokens) -> pa.Table:
        seen.append(batch)
        return pa.table({"first": pa.array([0] * len(batch), pa.int64())})

    def text(length: int, value: int) -> Tokens:
        plain = tokens(length, value=value)
        return replace(plain, offsets=np.full((length, 2), value, np.int32))

    async def main() -> None:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(score, executor, token_budget=100, queue_tokens=1000)
            await asyncio.gather(*(batcher.submit(text(n, n), 10) for n in (3, 5, 7)))

    asyncio.run(main())
    for batch in seen:
        assert batch.offsets is not None
        assert batch.offsets[:, 0].tolist() == batch.ids.tolist()


def test_no_texts_have_no_answers() -> None:
    async def body(batcher: Batcher, scorer: GatedScorer) -> None:
        assert (await batcher.submit(tokens(), 10)).table.num_rows == 0

    run(body)


def test_stats_count_every_text_once() -> None:
    async def body(batcher: Batcher, scorer: GatedScorer) -> None:
        await asyncio.gather(*(batcher.submit(tokens(10, 20), 10) for _ in range(10)))
        assert (batcher.stats.num_texts, batcher.stats.num_tokens) == (20, 300)
        assert batcher.stats.num_batches >= 3
        assert batcher.tokens_per_s > 0
        assert batcher.busy_since is None

    run(body)


def test_many_requests_of_all_sizes_get_their_own_answers() -> None:
    async def body(batcher: Batcher, scorer: GatedScorer) -> None:
        rng = np.random.default_rng(0)
        asked = [tokens(*rng.integers(1, 150, size=rng.integers(1, 30)), value=1000 * n) for n in range(200)]
        answers = await asyncio.gather(*(batcher.submit(request, 20) for request in asked))
        for n, (request, answer) in enumerate(zip(asked, answers, strict=True)):
            assert first_tokens(answer) == [1000 * n + place for place in range(len(request))]

    scorer = run(body, queue_tokens=10**9)
    assert all(sum(batch) <= 100 or len(batch) == 1 for batch in scorer.batches)
