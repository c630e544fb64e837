"""One HTTP/1.1 connection of the load generator: a request out, its whole answer in, the next only then.

No redirects, no compression, no pipelining: what a load generator needs, at a tenth of a client library's time.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import cast

import httptools


class LostError(Exception):
    """No whole answer came."""


@dataclass(frozen=True)
class Answer:
    """Status, body, and the header that a refusal should have."""

    status: int
    retry_after: str | None
    body: bytes


class Connection(asyncio.Protocol):
    """Speaks with one server; httptools calls the `on_…` methods."""

    def __init__(self) -> None:
        self.is_open = False
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None

    async def ask(self, raw: bytes) -> Answer:
        """Send a request and wait for its answer.

        Raises
        ------
        LostError : the server closed the connection before, or answered what isn't HTTP.
        """
        if self._transport is None or not self.is_open:
            raise LostError("the connection is closed")
        self._parser = httptools.HttpResponseParser(self)
        self._retry_after: str | None = None
        self._parts: list[bytes] = []
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(raw)
        try:
            return await self._answer
        except asyncio.CancelledError:  # an answer that comes now belongs to nobody
            self.close()
            raise

    def close(self) -> None:
        """Hang up."""
        self.is_open = False
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport, self.is_open = cast(asyncio.Transport, transport), True

    def data_received(self, data: bytes) -> None:
        """Parse what came; `on_message_complete` ends the wait."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.close()
            self._lose(f"no HTTP: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        """The server hung up, or we did."""
        self.is_open = False
        self._lose(f"the server hung up ({error})" if error else "the server hung up")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the one that is looked at."""
        if name.lower() == b"retry-after":
            self._retry_after = value.decode("latin-1")

    def on_body(self, part: bytes) -> None:
        """Gather the body."""
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if not self._parser.should_keep_alive():
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(self._parser.get_status_code(), self._retry_after, b"".join(self._parts)))

    def _lose(self, reason: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(LostError(reason))
