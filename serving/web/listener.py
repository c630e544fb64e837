"""HTTP on the ingress replica's own port, so that a request makes no detour through a proxy in Python.

Serve's proxy costs 3.4 ms of CPU a request, and the ingress another 2 to take the request out of Ray again (22 Nov
2026). Here uvicorn hands it to the application in the process where it arrives. Several ingress replicas on one machine
share the port (SO_REUSEPORT), as they do for gRPC. Why not Serve's HAProxy mode (2.60): its front has no TLS, opens a
port of metrics and one of statistics on all addresses, and 503 comes out of it as 500.

What Serve's proxy did is done here: the answer bears the request's id, and a client that hangs up cancels its request.
A replica that leaves lets no handshake begin, stops listening once those under way are through, tells clients on its
old connections to come back on new ones, which another replica takes, and closes those that stay idle.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.settings import HttpSettings
from serving.web.handover import HANDSHAKE_S, stop_greeting

_IDLE_S = 75.0  # that a connection may be idle: longer than pools of clients and proxies keep theirs (60 s)
_FAREWELL_S = 2.0  # in which clients of a replica that leaves hear of it with their next answer
_BACKLOG = 2048
_CLOSE = (b"connection", b"close")

logger = logging.getLogger("ray.serve")


class Listener:
    """A port with an application behind it.

    Parameters
    ----------
    finish_s : most that requests in flight get to end when it closes.
    """

    def __init__(self, settings: HttpSettings, finish_s: float) -> None:
        self._settings, self._finish_s = settings, finish_s
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._is_leaving = False

    @contextlib.asynccontextmanager
    async def serving(self, app: ASGIApp) -> AsyncIterator[None]:
        """Listen while the block runs; what is in flight at its end is finished."""
        await self._open(app)
        try:
            yield
        finally:
            await self.close()

    async def close(self) -> None:
        """Take no new connection, finish what is in flight, and end."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _open(self, app: ASGIApp) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # its messages quote what clients sent
        config = uvicorn.Config(
            self._around(app),
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(_IDLE_S),
            timeout_graceful_shutdown=int(self._finish_s),
            backlog=_BACKLOG,
            ssl_certfile=self._settings.tls_cert,
            ssl_keyfile=self._settings.tls_key,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[bind(self._settings)]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise RuntimeError("the HTTP server ended before it began")
            await asyncio.sleep(0.01)

    async def _close(self) -> None:
        if self._server is None or self._task is None:
            return
        for server in self._server.servers:
            for listening in server.sockets:
                try:
                    stop_greeting(listening)
                except OSError as problem:
                    logger.warning("clients that are just connecting may be reset: %s", problem)
        await asyncio.sleep(HANDSHAKE_S)
        self._is_leaving = True
        for server in self._server.servers:
            server.close()
        if self._server.server_state.connections:
            await asyncio.sleep(_FAREWELL_S)
        self._server.should_exit = True
        await self._task

    def _around(self, app: ASGIApp) -> ASGIApp:
        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_signed(message: Message) -> None:
                if message["type"] == "http.response.start":
                    headers = [*message["headers"], (b"x-request-id", scope["verbatim.request_id"].encode())]
                    message = {**message, "headers": [*headers, _CLOSE] if self._is_leaving else headers}
                elif not message.get("more_body", False):
                    caller.forget()
                await send(message)

            caller = HangUp(receive)
            try:
                await app(scope, caller.receive, send_signed)
            except asyncio.CancelledError:
                if not caller.has_hung_up:
                    raise
            finally:
                caller.forget()

        return serve


class HangUp:
    """A request's messages for the task that answers it, which is cancelled when its client hangs up."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._answering = asyncio.current_task()
        self._watching: asyncio.Task[Message] | None = None
        self.has_hung_up = False

    async def receive(self) -> Message:
        """The next message; behind the body's last one it is waited for in the background."""
        if self._watching is not None:
            return await asyncio.shield(self._watching)
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._hang_up()
        elif not message.get("more_body", False):
            self._watching = asyncio.ensure_future(self._receive())
            self._watching.add_done_callback(self._heard)
        return message

    def forget(self) -> None:
        """The answer is on its way out: who hangs up now cancels nothing."""
        self._answering = None
        if self._watching is not None:
            self._watching.cancel()

    def _heard(self, watching: asyncio.Future[Message]) -> None:
        if not watching.cancelled() and self._answering is not None:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._answering is not None:
            self.has_hung_up = True
            self._answering.cancel()


class _Server(uvicorn.Server):
    """Without handlers of signals: those are Ray's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing about them."""
        yield


def bind(settings: HttpSettings, *, shared: bool = True) -> socket.socket:
    """Take the address, along with the other ingress replicas of this machine.

    Raises
    ------
    OSError : it can't be had; also where it isn't `shared` and anybody has it.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Only where the protocol is said does asyncio send without waiting for acknowledgements (TCP_NODELAY).
    taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        taken.bind((settings.host, settings.port))
    except OSError:
        taken.close()
        raise
    return taken
