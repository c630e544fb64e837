"""Small requests that come at the same time travel to the replica as one call.

A call over Ray costs both ends some milliseconds of CPU, as much as the model spends on a short text. So requests that
want the same heads wait until one of the few calls that may be under way has returned, and then go together: an idle
service sends a single text at once, a busy one fills its calls by itself. No timer. To the replica it is one request of
many texts, no larger than a batch, so fairness between small and large requests stays as it was.

Each request keeps its own deadline, and leaves the queue when it is cancelled. Given up: once sent, it is scored with
its companions though nobody waits for it, unless all of them have gone.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from serving.admission import num_bytes
from serving.errors import RequestError
from serving.wire import ScoreCall, ScoreReply

_BYTES_PER_TOKEN = 3  # of English and Chinese alike, about
_MAX_SHARE = 4  # a request larger than this part of a call goes by itself

Send = Callable[[ScoreCall], Awaitable[ScoreReply | RequestError]]


@dataclass(eq=False)
class _Passenger:
    call: ScoreCall
    num_bytes: int
    done: asyncio.Future[ScoreReply | RequestError]
    since: float = field(default_factory=time.monotonic)

    def call_now(self) -> ScoreCall:
        """The call, with the time that is left of its own."""
        return replace(self.call, deadline_s=max(0.0, self.call.deadline_s - (time.monotonic() - self.since)))

    def give(self, answer: ScoreReply | RequestError) -> None:
        """Answer, if anybody still waits."""
        if not self.done.done():
            self.done.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Raise where the answer is awaited, if it still is."""
        if not self.done.done():
            self.done.set_exception(error)


class Coalescer:
    """The way to the replicas of one deployment.

    Parameters
    ----------
    send : makes one call.
    token_budget : of the replica's batches; a shared call holds about as much.
    num_lanes : batches that all replicas can compute at once. Two more calls may be under way: one that waits at the
        replica, to be taken up next, and one that is on its way there or back (NOTES.md).
    """

    def __init__(self, send: Send, *, token_budget: int, num_lanes: int) -> None:
        self._send, self._max_bytes, self._most = send, token_budget * _BYTES_PER_TOKEN, num_lanes + 2
        self._waiting: deque[_Passenger] = deque()
        self._waiting_bytes = 0
        self._under_way: set[asyncio.Task[None]] = set()

    async def score(self, call: ScoreCall) -> ScoreReply | RequestError:
        """Have texts scored, along with those of others where that is cheaper."""
        size = sum(map(num_bytes, call.texts))
        if size * _MAX_SHARE > self._max_bytes:
            return await self._send(call)
        passenger = _Passenger(call, size, asyncio.get_running_loop().create_future())
        self._waiting.append(passenger)
        self._waiting_bytes += size
        if self._waiting_bytes >= self._max_bytes:
            self._depart(self._board())
        elif len(self._under_way) < self._most:
            self._depart()
        return await passenger.done

    def _depart(self, group: Sequence[_Passenger] | None = None) -> None:
        """Begin a call of a group, or of whoever waits when it starts, which is after all that has just arrived."""
        task = asyncio.get_running_loop().create_task(self._travel(group))
        self._under_way.add(task)
        task.add_done_callback(self._returned)

    def _returned(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if self._waiting and len(self._under_way) < self._most:
            self._depart()

    async def _travel(self, group: Sequence[_Passenger] | None) -> None:
        if group := group or self._board():
            await self._carry(group)

    async def _carry(self, group: Sequence[_Passenger]) -> None:
        """Bring a group there and back; a failure is looked for one by one, so it costs nobody else the answer."""
        calling = asyncio.ensure_future(self._send(_together([one.call_now() for one in group])))
        _cancel_when_all_are_gone(calling, group)
        try:
            answer = await calling
        except asyncio.CancelledError:
            return
        except Exception as error:  # of any kind: whoever asked is told
            for one in group:
                one.fail(error)
            return
        if isinstance(answer, RequestError) and answer.code == "internal" and len(group) > 1:
            await asyncio.gather(*(self._carry([one]) for one in group))
            return
        for one, own in zip(group, _apart(answer, [len(each.call.texts) for each in group]), strict=True):
            one.give(own)

    def _board(self) -> list[_Passenger]:
        """Those who go together: the longest waiting, and behind it all that want the same and have room."""
        group: list[_Passenger] = []
        left: deque[_Passenger] = deque()
        room = self._max_bytes
        for one in self._waiting:
            if one.done.done():  # cancelled
                self._waiting_bytes -= one.num_bytes
            elif room >= one.num_bytes and (not group or group[0].call.heads == one.call.heads):
                group.append(one)
                room -= one.num_bytes
                self._waiting_bytes -= one.num_bytes
            else:
                left.append(one)
        self._waiting = left
        return group


def _cancel_when_all_are_gone(calling: asyncio.Future[Any], group: Sequence[_Passenger]) -> None:
    """Also once all are answered, when it does nothing any more."""
    num_left = len(group)

    def leave(_: asyncio.Future[Any]) -> None:
        nonlocal num_left
        num_left -= 1
        if not num_left:
            calling.cancel()

    for one in group:
        one.done.add_done_callback(leave)


def _together(calls: Sequence[ScoreCall]) -> ScoreCall:
    """One call of all texts, with as long to answer as the most patient has."""
    if len(calls) == 1:
        return calls[0]
    texts = tuple(text for call in calls for text in call.texts)
    return replace(calls[0], texts=texts, deadline_s=max(call.deadline_s for call in calls))


def _apart(answer: ScoreReply | RequestError, counts: Sequence[int]) -> list[ScoreReply | RequestError]:
    """Each request's own part of the answer, by its number of texts."""
    if isinstance(answer, RequestError) or len(counts) == 1:
        return [answer] * len(counts)
    parts: list[ScoreReply | RequestError] = []
    begin = first = 0
    for count in counts:
        end = begin + count
        last = bisect_left(answer.rows, end, first)
        rows = tuple(row - begin for row in answer.rows[first:last])
        parts.append(replace(answer, rows=rows, table=answer.table.slice(first, last - first)))
        begin, first = end, last
    return parts
