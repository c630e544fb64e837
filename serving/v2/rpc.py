"""The Open Inference Protocol over gRPC: a server of its own in every ingress replica, living as long as its HTTP.

Why not Serve's gRPC proxy (2.60): it listens on all addresses without TLS, which the loopback rule forbids; it answers
methods that it doesn't know with INTERNAL, logs a stack trace for each refusal, and sends every message through one
more process. Here statuses, trailing metadata, cancellation and the stream are gRPC's own, and what isn't served is
UNIMPLEMENTED. Every method is handled as a stream on this side, which is the same on the wire: so the key and the room
are checked before a message is read, as HTTP does with bodies.

Given up: Serve balances nothing here. Ingress replicas on one machine share the port (SO_REUSEPORT) and the kernel
deals out connections; over several machines, the TLS front does. A replica that leaves takes no new calls and finishes
its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from serving.errors import RequestError
from serving.service import Caller, Service
from serving.v2.http import message_of
from serving.v2.protos import SERVICE
from serving.v2.rpc_messages import parse
from serving.v2.rpc_methods import Method, methods
from serving.v2.settings import GrpcSettings
from serving.web.edge import choose_id, unforeseen

CODES = {
    "invalid_json": grpc.StatusCode.INVALID_ARGUMENT,
    "invalid_request": grpc.StatusCode.INVALID_ARGUMENT,
    "too_large": grpc.StatusCode.INVALID_ARGUMENT,
    "unauthenticated": grpc.StatusCode.UNAUTHENTICATED,
    "forbidden": grpc.StatusCode.PERMISSION_DENIED,
    "not_found": grpc.StatusCode.NOT_FOUND,
    "rate_limited": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "overloaded": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "internal": grpc.StatusCode.INTERNAL,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "deadline_exceeded": grpc.StatusCode.DEADLINE_EXCEEDED,
}
_FRAME_BYTES = 1 << 16  # of a message beside its tensors
_DONE, _GONE = 200, 499  # answered; the client has gone

logger = logging.getLogger("ray.serve")


@asynccontextmanager
async def served(service: Service, settings: GrpcSettings) -> AsyncIterator[None]:
    """Serve gRPC while the block runs; on the way out calls in flight are finished."""
    server = build(service)
    server.add_insecure_port(settings.address)
    await server.start()
    try:
        yield
    finally:
        await server.stop(service.settings.admission.deadline_s)


def build(service: Service) -> Any:
    """A server without an address."""
    limit = service.settings.limits.max_body_bytes
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", limit + _FRAME_BYTES)])
    handlers = {
        name: grpc.stream_stream_rpc_method_handler(_handler(service, f"/{SERVICE}/{name}", method))
        for name, method in methods(service).items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    return server


def _handler(service: Service, route: str, method: Method) -> Callable[[Any, Any], Awaitable[None]]:
    """Answer one call: whatever goes wrong becomes a status, is counted, and is logged without its words."""

    async def handle(_: Any, context: Any) -> None:
        began, status = time.perf_counter(), _GONE
        sent = dict(context.invocation_metadata())
        request_id = choose_id(sent.get("x-request-id", ""))
        context.set_trailing_metadata((("x-request-id", request_id),))
        try:
            await _answer(service, method, context, sent.get("authorization"), request_id)
            status = _DONE
        except Exception as error:  # the last resort: nothing may pass it
            refused = error if isinstance(error, RequestError) else unforeseen(error, request_id)
            status = refused.status
            service.metrics.refusal(refused.code)
            await context.abort(
                CODES.get(refused.code, grpc.StatusCode.UNKNOWN), message_of(refused), _trailing(refused, request_id)
            )
        finally:
            _note(service, route, status, time.perf_counter() - began, request_id)

    return handle


async def _answer(service: Service, method: Method, context: Any, authorization: str | None, request_id: str) -> None:
    """Check, read a message, write its answer; a stream goes on with the next."""
    caller = Caller(request_id, None) if method.is_open else service.identify(authorization, request_id)
    if method.is_work:
        service.admission.check()
    while (sent := await context.read()) is not grpc.aio.EOF:
        answer = await method.answer(caller, parse(method.request, sent))
        await context.write(answer.SerializeToString())
        if not method.is_stream:
            return
    if not method.is_stream:
        raise RequestError("invalid_request", "no message was sent")


def _trailing(refused: RequestError, request_id: str) -> tuple[tuple[str, str], ...]:
    """The id, and after how many seconds to ask again."""
    told = (("x-request-id", request_id),)
    return told if refused.retry_after is None else (*told, ("retry-after", refused.retry_after))


def _note(service: Service, route: str, status: int, seconds: float, request_id: str) -> None:
    """Count and log a call, its status as HTTP would have it."""
    service.metrics.request(route, status, seconds)
    logger.info("request", extra={"route": route, "status": status, "ms": round(1000 * seconds, 1), "id": request_id})
