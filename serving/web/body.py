"""Request bodies within a limit: what is over it is refused before it is read, or as soon as it passes the limit."""

from __future__ import annotations

from collections.abc import Collection

from starlette.requests import Request

from serving.errors import RequestError

PLAIN = ("identity",)


async def read_body(request: Request, max_bytes: int, encodings: Collection[str] = PLAIN) -> bytes:
    """Read a whole body, in an encoding that the caller unpacks.

    Raises
    ------
    RequestError : too_large; unsupported_media_type if it is compressed.
    """
    check_length(request, max_bytes, encodings)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise too_large(max_bytes)
        parts.append(part)
    return b"".join(parts)


def check_length(request: Request, max_bytes: int, encodings: Collection[str] = PLAIN) -> None:
    """Refuse by the headers alone, where they tell."""
    if request.headers.get("content-encoding", "identity").lower() not in encodings:
        raise RequestError("unsupported_media_type", f"must be {' or '.join(encodings)}", field="content-encoding")
    told = request.headers.get("content-length", "")
    if told.isdecimal() and (len(told) > 18 or int(told) > max_bytes):
        raise too_large(max_bytes)


def too_large(max_bytes: int) -> RequestError:
    """The error of a body over the limit."""
    return RequestError("too_large", f"the body may have at most {max_bytes} bytes", field="body")
