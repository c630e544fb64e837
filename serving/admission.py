"""When to say no: a global budget of tokens in flight, and a rate for each key. Both answer in microseconds.

Tokens aren't known before tokenising, so a request enters with an estimate from its bytes, and the estimate learns from
every reply. A byte of UTF-8 is a fair unit: English and Chinese both come near 0.25 to 0.35 tokens a byte. A request
larger than the whole budget is let in when nothing else is in flight, so that no allowed request is refused for ever.

Given up: one ledger over several ingress replicas; each has its even part of the budget.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from serving.errors import RequestError

_SPECIAL_TOKENS = 2  # of each text
_FIRST_RATIO = 0.3  # tokens a byte
_LEARNING = 0.02  # share of each reply in the ratio
_SPEED_MEMORY_S = 10.0
_MOST_RETRY_S = 60.0

Clock = Callable[[], float]


class TokenEstimate:
    """How many tokens texts will have, by their bytes."""

    def __init__(self) -> None:
        self.tokens_per_byte = _FIRST_RATIO

    def __call__(self, texts: Iterable[str], max_length: int) -> int:
        """Give an estimate; no text counts for more than `max_length`."""
        return sum(
            min(max_length, _SPECIAL_TOKENS + math.ceil(num_bytes(text) * self.tokens_per_byte)) for text in texts
        )

    def learn(self, text_bytes: int, num_texts: int, num_tokens: int) -> None:
        """Correct the ratio by texts of which none was cut."""
        if text_bytes:
            seen = max(0, num_tokens - _SPECIAL_TOKENS * num_texts) / text_bytes
            self.tokens_per_byte += _LEARNING * (seen - self.tokens_per_byte)


def num_bytes(text: str) -> int:
    """Length in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class Admission:
    """The budget of one ingress replica."""

    def __init__(self, tokens_in_flight: int, clock: Clock = time.monotonic) -> None:
        self.budget, self.in_flight, self.num_refused = tokens_in_flight, 0, 0
        self._clock = clock
        self._speed, self._speed_at = 0.0, clock()
        self._freed = asyncio.Event()

    def enter(self, tokens: int) -> Ticket:
        """Take part of the budget, or refuse.

        Raises
        ------
        RequestError : overloaded, with the seconds after which it may do better.
        """
        if not self._has_room(tokens):
            self.refuse()
        self.in_flight += tokens
        return Ticket(self, tokens)

    async def wait(self, tokens: int) -> Ticket:
        """Take part of the budget when there is room; for streams, which are slowed rather than refused."""
        while not self._has_room(tokens):
            self._freed.clear()
            await self._freed.wait()
        return self.enter(tokens)

    def check(self) -> None:
        """Refuse before a body is read, if not even a token has room."""
        if not self._has_room(1):
            self.refuse()

    def refuse(self) -> None:
        """Count a refusal and raise it."""
        self.num_refused += 1
        raise RequestError("overloaded", "the service is full; try again later", retry_after_s=self.retry_after_s)

    @property
    def retry_after_s(self) -> float:
        """Seconds until half of what is in flight is done, at the speed of late; 1 to 60."""
        speed = self._decayed() / _SPEED_MEMORY_S
        return min(_MOST_RETRY_S, max(1.0, self.in_flight / 2 / speed)) if speed > 0 else 1.0

    def leave(self, tokens: int) -> None:
        """Give a part back."""
        self.in_flight -= tokens
        self._speed, self._speed_at = self._decayed() + tokens, self._clock()
        self._freed.set()

    def _has_room(self, tokens: int) -> bool:
        return not self.in_flight or self.in_flight + tokens <= self.budget

    def _decayed(self) -> float:
        return self._speed * math.exp((self._speed_at - self._clock()) / _SPEED_MEMORY_S)


class Ticket:
    """A part of the budget, given back when the block ends, however it ends."""

    def __init__(self, admission: Admission, tokens: int) -> None:
        self._admission, self.tokens = admission, tokens

    def correct(self, tokens: int) -> None:
        """The real number is known now."""
        self._admission.in_flight += tokens - self.tokens
        self.tokens = tokens

    def __enter__(self) -> Ticket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.leave(self.tokens)


class TokenRate:
    """Tokens a minute for one key: an allowance that refills evenly and may be overdrawn once.

    A request goes through while anything is left, and what it takes beyond that is waited for by the next one, so that
    a request larger than a minute's allowance is slow rather than impossible.
    """

    def __init__(self, tokens_per_minute: int, clock: Clock = time.monotonic) -> None:
        self.tokens_per_minute = tokens_per_minute
        self._clock = clock
        self._left, self._at = float(tokens_per_minute), clock()

    def spend(self, tokens: int) -> None:
        """Take tokens from the allowance.

        Raises
        ------
        RequestError : rate_limited, with the seconds until something is left.
        """
        self._refill()
        if self._left <= 0:
            raise RequestError(
                "rate_limited",
                f"this key may use {self.tokens_per_minute} tokens a minute",
                retry_after_s=(1 - self._left) * 60 / self.tokens_per_minute,
            )
        self._left -= tokens

    def correct(self, tokens: int) -> None:
        """Take more, or give back where negative, once the real number is known."""
        self._left -= tokens

    def _refill(self) -> None:
        now = self._clock()
        self._left = min(self.tokens_per_minute, self._left + (now - self._at) * self.tokens_per_minute / 60)
        self._at = now
