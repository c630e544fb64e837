"""Small requests share a call and get their own part of its answer; large, other and lone ones go by themselves."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from serving.coalesce import Coalescer
from serving.errors import RequestError
from serving.wire import Load, ScoreCall, ScoreReply, Stages

BUDGET = 8  # tokens: 24 bytes a call, and over 6 alone


class Replica:
    """Scores a text by its length, after `gate` opens; a text `-` is nothing when cleaned, and `!` breaks the batch."""

    def __init__(self) -> None:
        self.calls: list[ScoreCall] = []
        self.num_cancelled = 0
        self.gate = asyncio.Event()

    async def score(self, call: ScoreCall) -> ScoreReply | RequestError:
        self.calls.append(call)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        if "!" in call.texts:
            return RequestError("internal", "the model failed on this request")
        rows = tuple(row for row, text in enumerate(call.texts) if text != "-")
        table = pa.table({"length": [len(call.texts[row]) for row in rows]})
        return ScoreReply("m@0", rows, table, Stages(0, 0, 0), Load("r", 0, 1, 1, BUDGET, 1.0))

    @property
    def sent(self) -> list[tuple[str, ...]]:
        return [call.texts for call in self.calls]


def asked(*texts: str, heads: tuple[str, ...] | None = None, deadline_s: float = 30.0) -> ScoreCall:
    return ScoreCall(texts, heads, deadline_s)


async def start(coalescer: Coalescer, *calls: ScoreCall) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(coalescer.score(call)) for call in calls]
    for _ in range(4):
        await asyncio.sleep(0)
    return tasks


def parts(answers: Sequence[Any]) -> list[tuple[tuple[int, ...], list[int]]]:
    return [(one.rows, one.table["length"].to_pylist()) for one in answers]


def coalescer(replica: Replica, num_lanes: int = 1) -> Coalescer:
    return Coalescer(replica.score, token_budget=BUDGET, num_lanes=num_lanes)


async def fill(coalescer: Coalescer) -> list[asyncio.Task[Any]]:
    """As many calls as may be under way over one lane: one there, one to be taken up next, one on its way."""
    return [task for text in "abc" for task in await start(coalescer, asked(text))]


def test_a_lone_request_goes_at_once_as_it_is() -> None:
    async def main() -> None:
        replica = Replica()
        replica.gate.set()
        call = asked("a", "-", "ccc")
        answers = await asyncio.gather(*await start(coalescer(replica), call))
        assert parts(answers) == [((0, 2), [1, 3])]
        assert replica.sent == [call.texts]

    asyncio.run(main())


def test_those_that_come_together_go_together_and_each_gets_its_own() -> None:
    async def main() -> None:
        replica = Replica()
        replica.gate.set()
        calls = [asked("a"), asked("bb", "-", "ccc"), asked("-"), asked("dddd")]
        answers = await asyncio.gather(*await start(coalescer(replica), *calls))
        assert parts(answers) == [((0,), [1]), ((0, 2), [2, 3]), ((), []), ((0,), [4])]
        assert replica.sent == [("a", "bb", "-", "ccc", "-", "dddd")]

    asyncio.run(main())


def test_while_enough_calls_are_under_way_small_ones_gather() -> None:
    async def main() -> None:
        replica = Replica()
        one = coalescer(replica, num_lanes=1)
        tasks = await fill(one)
        for text in "de":
            tasks += await start(one, asked(text))
        assert replica.sent == [("a",), ("b",), ("c",)]
        replica.gate.set()
        assert parts(await asyncio.gather(*tasks)) == [((0,), [1])] * 5
        assert replica.sent[3:] == [("d", "e")]

    asyncio.run(main())


def test_a_call_is_full_at_the_budget_and_then_nobody_waits() -> None:
    async def main() -> None:
        replica = Replica()
        one = coalescer(replica)
        await fill(one)
        tasks = await start(one, *(asked("x" * 6) for _ in range(5)))
        assert replica.sent[3:] == [("x" * 6,) * 4], "24 bytes; the fifth waits"
        replica.gate.set()
        await asyncio.gather(*tasks)
        assert replica.sent[4:] == [("x" * 6,)]

    asyncio.run(main())


def test_a_large_request_goes_alone_and_at_once() -> None:
    async def main() -> None:
        replica = Replica()
        one = coalescer(replica)
        await start(one, asked("a"), asked("b"), asked("y" * 7))
        assert replica.sent == [("y" * 7,), ("a", "b")]

    asyncio.run(main())


def test_other_heads_are_another_call() -> None:
    async def main() -> None:
        replica = Replica()
        replica.gate.set()
        calls = [asked("a"), asked("b", heads=("stars",)), asked("c"), asked("d", heads=("stars",))]
        assert parts(await asyncio.gather(*await start(coalescer(replica), *calls))) == [((0,), [1])] * 4
        assert sorted(call.texts for call in replica.calls) == [("a", "c"), ("b", "d")]

    asyncio.run(main())


def test_who_leaves_the_queue_is_not_sent() -> None:
    async def main() -> None:
        replica = Replica()
        one = coalescer(replica)
        first = await fill(one)
        gone, stays = await start(one, asked("d"), asked("e"))
        gone.cancel()
        replica.gate.set()
        await asyncio.gather(*first, stays)
        assert replica.sent == [("a",), ("b",), ("c",), ("e",)]

    asyncio.run(main())


def test_a_call_is_cancelled_only_when_all_its_passengers_have_gone() -> None:
    async def main() -> None:
        replica = Replica()
        one = coalescer(replica)
        tasks = await start(one, asked("a"), asked("b"))
        tasks[0].cancel()
        await asyncio.sleep(0.01)
        assert replica.num_cancelled == 0
        tasks[1].cancel()
        await asyncio.sleep(0.01)
        assert (replica.sent, replica.num_cancelled) == ([("a", "b")], 1)
        replica.gate.set()
        assert parts(await asyncio.gather(*await start(one, asked("c")))) == [((0,), [1])], "its place is free again"

    asyncio.run(main())


def test_a_failure_costs_nobody_else_the_answer() -> None:
    async def main() -> None:
        replica = Replica()
        replica.gate.set()
        answers = await asyncio.gather(*await start(coalescer(replica), asked("a"), asked("!"), asked("b")))
        assert parts([answers[0], answers[2]]) == [((0,), [1])] * 2
        assert isinstance(answers[1], RequestError)
        assert answers[1].code == "internal"

    asyncio.run(main())


def test_a_refusal_is_everybody_s() -> None:
    async def refuse(call: ScoreCall) -> RequestError:
        return RequestError("overloaded", "full", retry_after_s=3)

    async def main() -> None:
        one = Coalescer(refuse, token_budget=BUDGET, num_lanes=1)
        answers = await asyncio.gather(*await start(one, asked("a"), asked("b")))
        assert [answer.retry_after for answer in answers] == ["3", "3"]

    asyncio.run(main())


def test_an_unforeseen_error_reaches_everybody() -> None:
    async def fail(call: ScoreCall) -> ScoreReply:
        raise KeyError("unforeseen")

    async def main() -> None:
        one = Coalescer(fail, token_budget=BUDGET, num_lanes=1)
        tasks = await start(one, asked("a"), asked("b"))
        for task in tasks:
            with pytest.raises(KeyError):
                await task

    asyncio.run(main())


def test_a_call_has_the_time_of_its_most_patient_passenger() -> None:
    async def main() -> None:
        replica = Replica()
        one = coalescer(replica)
        await fill(one)
        tasks = await start(one, asked("d", deadline_s=5.0), asked("e", deadline_s=9.0))
        await asyncio.sleep(0.05)
        replica.gate.set()
        await asyncio.gather(*tasks)
        assert 8.5 < replica.calls[3].deadline_s <= 8.95, "less the time it has waited"

    asyncio.run(main())
