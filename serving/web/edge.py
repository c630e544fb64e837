"""The outermost layer of HTTP: request ids, one log line and one count a request, and no error without its form.

The listener, or Serve's proxy, puts the id into the answer's X-Request-Id; the proxy makes one where none was sent.

Whatever a route raises becomes an answer of the form that the route's protocol has (`errors_as`), never a stack trace:
an unforeseen error is logged by its type and place, without its message, which may hold a customer's text.
"""

from __future__ import annotations

import logging
import re
import time
import traceback
import uuid
from collections.abc import Callable, Mapping

from fastapi.routing import APIRoute
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import RequestError
from serving.metrics import Metrics

ErrorForm = Callable[[RequestError, str], Response]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
logger = logging.getLogger("ray.serve")


def plain_error(refused: RequestError, request_id: str) -> Response:
    """The REST form: {error: {code, message, field, request_id}}."""
    error = {"code": refused.code, "message": refused.message, "field": refused.field, "request_id": request_id}
    return Response(to_json({"error": error}), refused.status, error_headers(refused), "application/json")


def error_headers(refused: RequestError) -> dict[str, str]:
    """Headers that belong to an error in every form."""
    headers = {"Retry-After": refused.retry_after} if refused.retry_after else {}
    headers |= {"Allow": refused.allow} if refused.allow else {}
    return headers | ({"WWW-Authenticate": "Bearer"} if refused.code == "unauthenticated" else {})


def request_id_of(request: Request) -> str:
    """The id under which this request is logged and answered."""
    found: str = request.scope["verbatim.request_id"]
    return found


class Edge:
    """ASGI middleware.

    Parameters
    ----------
    errors_as : the form of errors by the path's beginning, for protocols other than REST.
    express : routes, by method and path, that are called from here: FastAPI's way to a route is a third of the CPU that
        a request for one text costs the ingress.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        errors_as: Mapping[str, ErrorForm],
        express: Mapping[tuple[str, str], APIRoute],
    ) -> None:
        self._app, self._metrics, self._errors_as, self._express = app, metrics, errors_as, express

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 499  # the client has gone, unless an answer starts
        request_id = scope["verbatim.request_id"] = choose_id(Request(scope).headers.get("x-request-id", ""))

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._route(scope, receive, watched)
        except Exception as error:  # the last resort: nothing may pass it
            refused = error if isinstance(error, RequestError) else unforeseen(error, request_id)
            if status != 499:
                raise RuntimeError("an answer broke off") from None
            await self.answer(refused, scope)(scope, receive, watched)
        finally:
            self._note(scope, request_id, status, time.perf_counter() - began)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._express.get((scope["method"], scope["path"]))
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        answer: Response = await route.endpoint(Request(scope, receive, send))
        await answer(scope, receive, send)

    def answer(self, refused: RequestError, scope: Scope) -> Response:
        """Count a refusal and put it into the form of the path's protocol."""
        self._metrics.refusal(refused.code)
        path = scope["path"]
        form = next((form for start, form in self._errors_as.items() if path.startswith(start)), plain_error)
        return form(refused, scope["verbatim.request_id"])

    def _note(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.request(route, status, seconds)
        logger.info(
            "request", extra={"route": route, "status": status, "ms": round(1000 * seconds, 1), "id": request_id}
        )


def choose_id(given: str) -> str:
    """The client's own id if it can be written anywhere, else a new one."""
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def unforeseen(error: Exception, request_id: str) -> RequestError:
    """Log an error that nobody caught, without its words, and give what the client is told."""
    place = "".join(traceback.format_tb(error.__traceback__)[-3:])
    logger.error("unforeseen error", extra={"kind": type(error).__name__, "place": place, "id": request_id})
    return RequestError("internal", "the service failed; the request id leads to the reason in its log")
