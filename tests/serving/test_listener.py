"""The ingress's own port, over real sockets: ids, hang-ups, and leaving without a loss."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from serving.settings import HttpSettings
from serving.web.listener import Listener, bind
from tests.serving.started import free_port


class App:
    """Says `done` when `gate` is open; knows who hung up on it."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.num_begun = self.num_cancelled = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["verbatim.request_id"] = "id-1"
        await Request(scope, receive).body()
        self.num_begun += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        await PlainTextResponse("done")(scope, receive, send)

    async def has_begun(self, count: int) -> None:
        while self.num_begun < count:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[tuple[Listener, HttpSettings]]:
    settings = HttpSettings(port=free_port())
    listener = Listener(settings, 10.0)
    async with listener.serving(app):
        yield listener, settings


def run(check: Callable[[App, Listener, str, aiohttp.ClientSession], Awaitable[None]]) -> None:
    async def main() -> None:
        app = App()
        async with serving(app) as (listener, settings), aiohttp.ClientSession() as session:
            await check(app, listener, f"http://127.0.0.1:{settings.port}/", session)

    asyncio.run(main())


def test_an_answer_bears_the_request_s_id() -> None:
    async def check(app: App, _: Listener, url: str, session: aiohttp.ClientSession) -> None:
        app.gate.set()
        for size in (0, 100_000):
            async with session.post(url, data=b"x" * size) as answer:
                assert (answer.status, await answer.text()) == (200, "done")
                assert answer.headers.getall("x-request-id") == ["id-1"]
                assert "connection" not in answer.headers
                assert "server" not in answer.headers

    run(check)


def test_a_client_that_hangs_up_cancels_its_request_alone() -> None:
    async def check(app: App, _: Listener, url: str, session: aiohttp.ClientSession) -> None:
        stays, goes = (asyncio.create_task(session.post(url, data=b"x")) for _ in range(2))
        await app.has_begun(2)
        goes.cancel()
        while not app.num_cancelled:
            await asyncio.sleep(0.01)
        app.gate.set()
        assert (await stays).status == 200
        assert app.num_cancelled == 1

    run(check)


def test_a_replica_that_leaves_finishes_and_tells_clients_to_come_back_elsewhere() -> None:
    async def check(app: App, listener: Listener, url: str, session: aiohttp.ClientSession) -> None:
        answering = asyncio.create_task(session.post(url, data=b"x"))
        await app.has_begun(1)
        leaving = asyncio.create_task(listener.close())
        await asyncio.sleep(0.1)
        async with aiohttp.ClientSession() as late:
            with pytest.raises(aiohttp.ClientConnectorError):
                await late.post(url)
        app.gate.set()
        answer = await answering
        assert (await answer.text(), answer.headers["connection"]) == ("done", "close")
        await leaving

    run(check)


@pytest.mark.parametrize("anew", [False, True], ids=["connections_kept", "a_connection_each"])
def test_under_load_one_replica_takes_over_from_another(anew: bool) -> None:
    """Both listen on one port for a while, as in a rolling change; no request is lost, nor who is just connecting."""

    async def main() -> None:
        settings, apps = HttpSettings(port=free_port()), (App(), App())
        old, new = Listener(settings, 10.0), Listener(settings, 10.0)
        for app in apps:
            app.gate.set()
        stop, statuses = asyncio.Event(), []

        async def ask(session: aiohttp.ClientSession) -> None:
            while not stop.is_set():
                async with session.post(f"http://127.0.0.1:{settings.port}/", data=b"x") as answer:
                    await answer.read()  # else its connection isn't kept
                    statuses.append(answer.status)

        connector = aiohttp.TCPConnector(force_close=anew)
        async with new.serving(apps[1]):
            async with old.serving(apps[0]), aiohttp.ClientSession(connector=connector) as session:
                clients = [asyncio.create_task(ask(session)) for _ in range(32)]
                await apps[0].has_begun(100)
                await old.close()
                before = apps[0].num_begun
                await asyncio.sleep(0.2)
                stop.set()
                await asyncio.gather(*clients)
            assert apps[0].num_begun == before, "it takes nothing any more"
            assert set(statuses) == {200}
            assert sum(app.num_begun for app in apps) == len(statuses)

    asyncio.run(main())


def test_an_answer_is_sent_without_waiting_for_acknowledgements() -> None:
    """Else its body, written after its head, takes 40 ms on a connection that is kept (Nagle's algorithm)."""

    async def main() -> None:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            ours: socket.socket = writer.get_extra_info("socket")
            accepted.set_result(ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        settings = HttpSettings(port=free_port())
        async with await asyncio.start_server(take, sock=bind(settings)):
            _, writer = await asyncio.open_connection("127.0.0.1", settings.port)
            assert await accepted == 1
            writer.close()

    asyncio.run(main())


def test_an_address_that_somebody_has() -> None:
    settings = HttpSettings(port=free_port())
    with bind(settings) as first:
        first.listen()
        bind(settings).close()
        with pytest.raises(OSError, match="in use"):
            bind(settings, shared=False)


def self_signed(folder: Path) -> tuple[str, str]:
    """Certificate and key for localhost, for a day."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(folder / "cert.pem"), str(folder / "key.pem")


def test_over_tls_and_not_without(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    settings = HttpSettings(port=free_port(), tls_cert=cert, tls_key=key)

    async def main() -> None:
        app = App()
        app.gate.set()
        trusting = ssl.create_default_context(cafile=cert)
        async with Listener(settings, 10.0).serving(app), aiohttp.ClientSession() as session:
            async with session.get(f"https://localhost:{settings.port}/", ssl=trusting) as answer:
                assert (answer.status, await answer.text()) == (200, "done")
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get(f"https://localhost:{settings.port}/")
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"http://127.0.0.1:{settings.port}/")
        assert app.num_begun == 1

    asyncio.run(main())
