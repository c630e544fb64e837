"""The one error of the service, and what each of its codes is in HTTP.

A replica that can't answer gives a `RequestError` back as a value: raised over a process border it would come wrapped
in a stack trace. The protocols turn it into their own form. Its message is for the client: no text, no key, no path.
"""

from __future__ import annotations

import math
from typing import Any

HTTP_STATUS = {
    "invalid_json": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "too_large": 413,
    "unsupported_media_type": 415,
    "invalid_request": 422,
    "rate_limited": 429,  # this key has used up its rate
    "overloaded": 429,  # the service is full
    "internal": 500,
    "unavailable": 503,
    "deadline_exceeded": 504,
}


class RequestError(ValueError):
    """A request that isn't answered, in words for the client.

    Parameters
    ----------
    code : one of `HTTP_STATUS`.
    field : the part of the request that would have to change, `texts.3` for example.
    retry_after_s : after which the same request may do better.
    """

    allow: str | None = None  # with method_not_allowed: the methods that there are

    def __init__(self, code: str, message: str, *, field: str | None = None, retry_after_s: float | None = None):
        assert code in HTTP_STATUS, code
        super().__init__(message)
        self.code, self.message, self.field, self.retry_after_s = code, message, field, retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.code, self.message, self.field, self.retry_after_s)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return HTTP_STATUS[self.code]

    @property
    def retry_after(self) -> str | None:
        """Value of the Retry-After header: whole seconds, at least one."""
        return None if self.retry_after_s is None else str(max(1, math.ceil(self.retry_after_s)))


def _rebuild(code: str, message: str, field: str | None, retry_after_s: float | None) -> RequestError:
    return RequestError(code, message, field=field, retry_after_s=retry_after_s)
