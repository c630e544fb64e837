"""Long lists as NDJSON: a text a line in, a result a line out, in order, while more is still being sent.

A line is a JSON string or an object with `id` and `text`. Memory is bounded whatever the length: lines are scored in
groups of at most `_GROUP_TEXTS`, and at most `_GROUPS_IN_FLIGHT` groups are read ahead of the client's reading. A
stream waits for room where a plain request would be refused. A line that can't be read or scored gives an `error` line
of its own, and the stream goes on. Given up: a stream has no deadline of its own, each group has.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from serving.errors import RequestError
from serving.service import Caller, Service, Wanted
from serving.web.answers import results
from serving.web.body import too_large
from serving.web.messages import Item, parse

MEDIA_TYPE = "application/x-ndjson"
_GROUP_TEXTS = 128
_GROUPS_IN_FLIGHT = 4


@dataclass(frozen=True)
class _Line:
    number: int  # from 1
    item: Item | RequestError


async def score_lines(
    service: Service, caller: Caller, wanted: Wanted, body: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    """Give the answer's lines, some at a time."""
    ahead: deque[asyncio.Task[bytes]] = deque()
    try:
        async for group in _groups(
            body, service.settings.limits.max_body_bytes, service.settings.limits.max_stream_bytes
        ):
            ahead.append(asyncio.create_task(_score(service, caller, wanted, group)))
            if len(ahead) >= _GROUPS_IN_FLIGHT:
                yield await ahead.popleft()
            while ahead and ahead[0].done():
                yield ahead.popleft().result()
        while ahead:
            yield await ahead.popleft()
    finally:
        for task in ahead:
            task.cancel()


async def _groups(body: AsyncIterator[bytes], max_line: int, max_bytes: int) -> AsyncIterator[list[_Line]]:
    """Cut the body into groups of lines; what has come is never held back for more to come.

    A body or a line over its limit ends the stream with an error in place of what came last.
    """
    number, size, rest = 1, 0, b""
    async for part in body:
        size += len(part)
        *lines, rest = (rest + part).split(b"\n")
        if size > max_bytes or max(map(len, lines), default=0) > max_line or len(rest) > max_line:
            yield [_Line(number, too_large(max_bytes if size > max_bytes else max_line))]
            return
        for group in _cut(lines, number):
            yield group
        number += len(lines)
    for group in _cut([rest], number):
        yield group


def _cut(lines: list[bytes], number: int) -> Iterator[list[_Line]]:
    read = [_Line(number + place, _read(line)) for place, line in enumerate(lines) if line.strip()]
    for begin in range(0, len(read), _GROUP_TEXTS):
        yield read[begin : begin + _GROUP_TEXTS]


def _read(line: bytes) -> Item | RequestError:
    try:
        return parse(line, Item)
    except RequestError as refused:
        return refused


async def _score(service: Service, caller: Caller, wanted: Wanted, group: list[_Line]) -> bytes:
    good = [(line, line.item) for line in group if isinstance(line.item, Item)]
    answers: dict[int, dict[str, Any]] = {
        line.number: {"line": line.number, "error": _error(line.item)}
        for line in group
        if isinstance(line.item, RequestError)
    }
    if good:
        answers |= await _answers(service, caller, wanted, good)
    return b"".join(to_json(answers[line.number], inf_nan_mode="null") + b"\n" for line in group)


async def _answers(
    service: Service, caller: Caller, wanted: Wanted, good: list[tuple[_Line, Item]]
) -> dict[int, dict[str, Any]]:
    try:
        scored = await service.score(caller, wanted, [item.text for _, item in good], may_wait=True)
    except RequestError as refused:
        service.metrics.refusal(refused.code)
        return {line.number: {"line": line.number, "id": item.id, "error": _error(refused)} for line, item in good}
    found = results(scored, [item.id for _, item in good], field="text")
    model = scored.reply.bundle
    return {
        line.number: {"line": line.number, "model": model, **one} for (line, _), one in zip(good, found, strict=True)
    }


def _error(refused: RequestError) -> dict[str, Any]:
    return {"code": refused.code, "message": refused.message, "field": refused.field}
