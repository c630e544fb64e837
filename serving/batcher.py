"""Continuous batching by tokens: whatever waits when a lane of the device falls free goes into its next batch.

No timer and no row count: an idle device starts on a single text at once, a busy one finds a full batch waiting. Texts
of many requests share a batch, and a large request is spread over many. Who goes first follows the order in which
requests would end if all shared the device evenly (Friedman and Henderson 2003, "Fair sojourn protocol"): a single text
passes a list of a thousand, equal requests go first come first served. Even shares let a large request wait long in a
full queue, so whoever has waited for half of its time goes first, the longest of them before the others: what was let
in is answered in time. Independent of Ray; one event loop owns it, and only `score` runs in threads.

A device has as many lanes as it can have batches under way: one a core on a CPU, two on a GPU, where one batch is
staged while another computes. Given up: filling lanes evenly; the first to be free takes all that fits into its budget.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.tokeniser import Tokens

_RATE_MEMORY = 0.9  # of the measured speed, batch by batch
_PATIENCE = 0.5  # share of its time that a request waits for its turn, before it goes first


class QueueFullError(RuntimeError):
    """More tokens wait than may."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the queue is full for about {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


class DeadlineError(TimeoutError):
    """The deadline passed while texts still waited."""


@dataclass(frozen=True)
class Answered:
    """A request's answers in its own order, and where its time went."""

    table: pa.Table
    wait_s: float
    compute_s: float


@dataclass
class BatcherStats:
    """Totals since the start."""

    num_batches: int = 0
    num_failed_in_a_row: int = 0
    num_texts: int = 0
    num_tokens: int = 0
    arrived_tokens: int = 0
    compute_s: float = 0.0


@dataclass(eq=False)
class _Request:
    tokens: Tokens
    starts: NDArray[np.int64]  # N + 1: where each text begins in ids, and where the last ends
    done: asyncio.Future[pa.Table]
    since: float
    deadline_s: float
    next_text: int = 0
    parts: dict[int, pa.Table] = field(default_factory=dict)  # by the first text of each
    num_answered: int = 0
    wait_s: float = 0.0
    compute_s: float = 0.0

    @property
    def waiting_tokens(self) -> int:
        return int(self.starts[-1] - self.starts[self.next_text])


@dataclass(frozen=True)
class _Slice:
    """Texts `begin:end` of a request."""

    request: _Request
    begin: int
    end: int

    @property
    def tokens(self) -> Tokens:
        own, rows = self.request.tokens, slice(self.begin, self.end)
        places = slice(self.request.starts[self.begin], self.request.starts[self.end])
        offsets = None if own.offsets is None else own.offsets[places]
        return Tokens(own.ids[places], own.lengths[rows], own.truncated[rows], offsets)


class Batcher:
    """The queue before one scorer.

    Parameters
    ----------
    score : runs in `executor`, at most `num_lanes` at once; one row a text, in order.
    token_budget : most tokens in a batch; a single longer text goes alone.
    queue_tokens : most tokens that may wait; a request that finds the queue empty is always taken.
    """

    def __init__(
        self,
        score: Callable[[Tokens], pa.Table],
        executor: Executor,
        *,
        token_budget: int,
        queue_tokens: int,
        num_lanes: int = 1,
    ) -> None:
        self.token_budget, self.stats = token_budget, BatcherStats()
        self.tokens_per_s, self.queue_tokens = 0.0, 0
        self._score, self._executor, self._most = score, executor, queue_tokens
        self._heap: list[tuple[float, int, _Request]] = []  # this and the next may hold requests that have left
        self._arrived: deque[_Request] = deque()
        self._waiting: set[_Request] = set()
        self._turn, self._number = 0.0, 0
        self._num_lanes, self._num_running, self._lanes = num_lanes, 0, set[asyncio.Task[None]]()
        self._under_way: list[float] = []  # when each began, by perf_counter

    async def submit(self, tokens: Tokens, deadline_s: float) -> Answered:
        """Score texts along with whoever else asks. A caller that is cancelled takes its texts out of the queue.

        Raises
        ------
        QueueFullError, DeadlineError : not scored. Whatever `score` raises for these texts is raised here.
        """
        request = self._enter(tokens, deadline_s)
        try:
            async with asyncio.timeout(deadline_s):
                table = await request.done
        except TimeoutError as error:
            raise DeadlineError(f"not scored within {deadline_s:g} s") from error
        finally:
            self._leave(request)
        return Answered(table, request.wait_s, request.compute_s)

    @property
    def retry_after_s(self) -> float:
        """Seconds until what waits now is done, at the speed of late; 1 if none is known."""
        return self.queue_tokens / self.tokens_per_s if self.tokens_per_s else 1.0

    @property
    def busy_since(self) -> float | None:
        """When the batch that has been under way for longest began, by perf_counter."""
        return min(self._under_way, default=None)

    def _enter(self, tokens: Tokens, deadline_s: float) -> _Request:
        if self.queue_tokens and self.queue_tokens + tokens.num_tokens > self._most:
            raise QueueFullError(self.retry_after_s)
        starts = np.concatenate([[0], np.cumsum(tokens.lengths, dtype=np.int64)])
        done = asyncio.get_running_loop().create_future()
        request = _Request(tokens, starts, done, time.perf_counter(), deadline_s)
        self.queue_tokens += tokens.num_tokens
        self.stats.arrived_tokens += tokens.num_tokens
        self._waiting.add(request)
        self._number += 1
        heapq.heappush(self._heap, (self._turn + tokens.num_tokens, self._number, request))
        self._arrived.append(request)
        if self._num_running < self._num_lanes:
            self._num_running += 1
            lane = asyncio.get_running_loop().create_task(self._run())
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)  # held till then: the loop itself only knows it weakly
        return request

    def _leave(self, request: _Request) -> None:
        """Also of requests that were answered; heap and arrivals forget them when their turn comes."""
        if request in self._waiting:
            self._waiting.remove(request)
            self.queue_tokens -= request.waiting_tokens
        request.done.cancel()

    async def _run(self) -> None:
        """One lane: batch after batch until nothing waits."""
        while batch := self._next_batch():
            await self._compute(batch)
        self._num_running -= 1

    def _next_batch(self) -> list[_Slice]:
        """Fill the budget from those whose turn it is. Stops at the first text that has no room, so none is passed."""
        batch: list[_Slice] = []
        room, num_waiting = self.token_budget, max(1, len(self._waiting))
        while (request := self._whose_turn()) is not None:
            end = self._fit(request, room, alone=not batch)
            if end == request.next_text and len(request.tokens):
                break
            batch.append(_Slice(request, request.next_text, end))
            room -= self._take(request, end)
            if request in self._waiting:
                break
        self._turn += (self.token_budget - room) / num_waiting
        return batch

    def _whose_turn(self) -> _Request | None:
        while self._arrived and self._arrived[0] not in self._waiting:
            self._arrived.popleft()
        while self._heap and self._heap[0][2] not in self._waiting:
            heapq.heappop(self._heap)
        if not self._heap:
            return None
        oldest = self._arrived[0]
        is_late = time.perf_counter() - oldest.since > _PATIENCE * oldest.deadline_s
        return oldest if is_late else self._heap[0][2]

    def _fit(self, request: _Request, room: int, *, alone: bool) -> int:
        """Position after the last text that fits; the first of a batch always does."""
        limit = request.starts[request.next_text] + room
        end = int(np.searchsorted(request.starts, limit, side="right")) - 1
        least = min(request.next_text + 1, len(request.tokens)) if alone else request.next_text
        return max(end, least)

    def _take(self, request: _Request, end: int) -> int:
        """Move a request on to `end`; the tokens that took."""
        before = request.waiting_tokens
        if not request.next_text:
            request.wait_s = time.perf_counter() - request.since
        request.next_text = end
        taken = before - request.waiting_tokens
        self.queue_tokens -= taken
        if end == len(request.tokens):
            self._waiting.remove(request)
        return taken

    async def _compute(self, batch: list[_Slice]) -> None:
        try:
            answers = await self._timed(batch)
        except Exception as error:  # of any kind: it belongs to a request of this batch, not to the queue
            self.stats.num_failed_in_a_row += 1
            await self._one_by_one(batch, error)
            return
        self.stats.num_failed_in_a_row = 0
        begin = 0
        for one in batch:
            self._give(one, answers.slice(begin, one.end - one.begin))
            begin += one.end - one.begin

    async def _one_by_one(self, batch: list[_Slice], error: Exception) -> None:
        """After a failure, find whose it is: each request's texts by themselves."""
        for one in batch:
            if len(batch) == 1:
                self._fail(one.request, error)
            elif not one.request.done.done():
                await self._compute([one])

    async def _timed(self, batch: list[_Slice]) -> pa.Table:
        tokens, began = _merged(batch), time.perf_counter()
        self._under_way.append(began)
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._executor, self._score, tokens)
        finally:
            self._under_way.remove(began)
        assert answers.num_rows == len(tokens), f"{answers.num_rows} answers to {len(tokens)} texts"
        self._count(batch, tokens, time.perf_counter() - began)
        return answers

    def _count(self, batch: list[_Slice], tokens: Tokens, compute_s: float) -> None:
        self.stats.num_batches += 1
        self.stats.num_texts += len(tokens)
        self.stats.num_tokens += tokens.num_tokens
        self.stats.compute_s += compute_s
        speed = self._num_lanes * tokens.num_tokens / max(compute_s, 1e-9)
        self.tokens_per_s = (
            _RATE_MEMORY * self.tokens_per_s + (1 - _RATE_MEMORY) * speed if self.tokens_per_s else speed
        )
        for one in batch:
            one.request.compute_s += compute_s

    def _give(self, one: _Slice, answers: pa.Table) -> None:
        request = one.request
        request.parts[one.begin] = answers
        request.num_answered += one.end - one.begin
        if request.num_answered == len(request.tokens) and not request.done.done():
            request.done.set_result(pa.concat_tables(request.parts[begin] for begin in sorted(request.parts)))

    def _fail(self, request: _Request, error: Exception) -> None:
        if not request.done.done():
            request.done.set_exception(error)
        self._leave(request)


def _merged(batch: list[_Slice]) -> Tokens:
    parts = [one.tokens for one in batch]
    if len(parts) == 1:
        return parts[0]
    return Tokens(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        np.concatenate([part.truncated for part in parts]),
        None
        if parts[0].offsets is None
        else np.concatenate([part.offsets for part in parts if part.offsets is not None]),
    )
