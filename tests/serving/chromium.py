"""A headless Chromium for tests, driven over its DevTools protocol: what a page shows, and how it looks."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"),
    *("--no-first-run", "--no-proxy-server", "--hide-scrollbars", "--remote-debugging-port=0"),
)


def find_chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """One tab. `seen` holds everything that the browser complained about: errors, refusals by policy, failed loads."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._ids = socket, itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.seen: list[str] = []
        self.requested: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        return await asyncio.wait_for(self._answers[number], 30)

    async def listen(self) -> None:
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told.get("result", told))
            else:
                self._note(told["method"], told["params"])

    async def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        told = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    async def until(self, script: str, seconds: float = 30) -> None:
        for _ in range(int(seconds / 0.05)):
            if await self.run(f"Boolean({script})"):
                return
            await asyncio.sleep(0.05)
        raise TimeoutError(f"never came true: {script}; {self.seen}")

    async def open(self, url: str, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        phone = width < 600
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href.startsWith('http')")

    async def press(self, key: str, code: int, text: str = "", modifiers: int = 0) -> None:
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    async def write(self, text: str) -> None:
        """Type into what has the focus."""
        await self.call("Input.insertText", text=text)

    async def picture(self, path: Path, *, whole: bool = True) -> None:
        told = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(told["data"]))

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.seen.append(params["exceptionDetails"]["exception"]["description"])
        if method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.seen.append(params["entry"]["text"])
        if method == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])


@asynccontextmanager
async def chromium(folder: Path, language: str = "en-US") -> AsyncIterator[Page]:
    """A browser with one empty tab, in a profile of its own; it ends with the block."""
    binary = find_chromium()
    assert binary is not None
    command = [binary, *FLAGS, f"--user-data-dir={folder}", f"--lang={language}", f"--accept-lang={language}"]
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        browser = subprocess.Popen([*command, "about:blank"], stdout=log, stderr=log)
    try:
        port = await _port(folder)
        async with aiohttp.ClientSession(trust_env=False) as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                (tab,) = [one for one in await answer.json() if one["type"] == "page"]
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                listener = asyncio.create_task(page.listen())
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await page.call(f"{domain}.enable")
                yield page
                listener.cancel()
    finally:
        browser.terminate()
        browser.wait(20)


async def _port(folder: Path) -> int:
    """Chromium writes the port that it chose into its profile."""
    file = folder / "DevToolsActivePort"
    for _ in range(600):
        if file.is_file() and (found := re.match(r"\d+\n", file.read_text())):
            return int(found[0])
        await asyncio.sleep(0.05)
    raise TimeoutError("chromium doesn't start")
