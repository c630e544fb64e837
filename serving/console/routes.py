"""The console: a page at `/` to try texts on the service, as files that ship with the package.

The page is plain HTML, CSS and ES modules without a build step; it calls the same REST routes as every client, so it
needs no route of its own and no right of its own: a key is typed into the page and lives in its memory only. The policy
below lets nothing run or load that isn't one of these files, and makes Chromium refuse `innerHTML` altogether. File
names carry no digest, so a browser asks each time and is told 304; the price is a round trip a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources

from fastapi import APIRouter, Request, Response

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_INDEX = "index.html"


@dataclass(frozen=True)
class PageFile:
    """One file of the page, as it is answered."""

    content: bytes
    media_type: str

    @property
    def etag(self) -> str:
        """Changes with the content."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'


def page_files() -> dict[str, PageFile]:
    """All files of the page by name."""
    folder = resources.files("serving.console") / "page"
    return {one.name: PageFile(one.read_bytes(), _TYPES[one.name.rpartition(".")[2]]) for one in folder.iterdir()}


def routes() -> APIRouter:
    """`/` and the files that the page asks for."""
    router = APIRouter(include_in_schema=False)
    for name, file in page_files().items():
        path = "/" if name == _INDEX else f"/console/{name}"
        router.add_api_route(path, _answer(file), methods=["GET", "HEAD"])
    return router


def _answer(file: PageFile) -> Callable[[Request], Response]:
    headers = _HEADERS | {"ETag": file.etag}

    async def answer(request: Request) -> Response:
        known = request.headers.get("if-none-match", "")
        if file.etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers=headers, media_type=file.media_type)

    return answer  # type: ignore[return-value]
