"""What people put right in the console: by keyboard, kept in the page alone, and in a file that fine-tuning reads."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from cluster.config import parse_config
from jobs.finetune.data import Data, read_data
from jobs.finetune.settings import FinetuneSettings
from models.bundle import Bundle
from models.heads import HeadSpec
from serving.service import Service
from serving.web.http import build_http
from tests.serving.chromium import Page, chromium, find_chromium
from tests.serving.conftest import LocalBackend, entry, settings_of
from tests.serving.started import free_port
from tests.tiny import HEADS, tiny_bundle

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="needs chromium"),
]
TOPICS = HeadSpec(name="topics", kind="multi", labels=("delivery", "price", "quality"))
ASPECT = HeadSpec(name="aspect", kind="token", labels=("O", "B-x", "I-x"))
VECTOR = HeadSpec(name="vector", kind="embedding", size=32)
FORMULA = '=HYPERLINK("http://x.test")\n<img src=x onerror="window.owned=1">\u2028 "质量" 😀'
LEAVES = "dispatchEvent(new Event('beforeunload', {cancelable: true}))"  # without asking
LONG = "快 " * 10_000 + "end"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    heads = (*HEADS, TOPICS, ASPECT, VECTOR)
    return tiny_bundle(tmp_path_factory.mktemp("served") / "tiny", heads=heads)


@pytest.fixture(scope="module")
def url(served: Bundle) -> Iterator[str]:
    settings = settings_of(entry(served), entry(served, name="again"))
    port = free_port()
    config = uvicorn.Config(build_http(Service(settings, LocalBackend(settings))), port=port, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the service doesn't start"
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)


def visit(url: str, folder: Path, what: Callable[[Page], Awaitable[None]], language: str = "en-US") -> None:
    async def main() -> None:
        async with chromium(folder / "profile", language) as page:
            await page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
            await page.open(url)
            await page.until("document.querySelectorAll('#heads input').length === 5")
            await what(page)
            assert page.seen == []

    asyncio.run(main())


async def ask(page: Page, text: str) -> None:
    await page.run("document.getElementById('text').value = ''; document.getElementById('text').focus()")
    await page.write(text)
    await page.press("Enter", 13, "\r", modifiers=2)
    await page.until("!document.getElementById('submit').disabled")
    await page.until("document.getElementById('status').innerText")


def block(head: str) -> str:
    """The head's part of the answer, as an expression."""
    return f"[...document.querySelectorAll('.head')].find(one => one.innerText.startsWith({json.dumps(head + ':')}))"


async def open_by_key(page: Page, head: str) -> None:
    await page.run(f"{block(head)}.querySelector('summary').focus()")
    await page.press("Enter", 13, "\r")
    await page.until(f"{block(head)}.querySelector('details').open")


async def choose(page: Page, head: str, label: str) -> None:
    """Put one label right."""
    await open_by_key(page, head)
    await page.run(f"{block(head)}.querySelector('select').value = {json.dumps(label)}")
    await page.run(f"{block(head)}.querySelector('button[type=submit]').click()")


async def tick(page: Page, head: str, labels: list[str]) -> None:
    """Put several labels right."""
    await open_by_key(page, head)
    boxes = f"{block(head)}.querySelectorAll('input')"
    await page.run(f"for (const box of {boxes}) box.checked = {json.dumps(labels)}.includes(box.value)")
    await page.run(f"{block(head)}.querySelector('button[type=submit]').click()")


async def note(page: Page, head: str) -> str:
    return str(await page.run(f"{block(head)}.querySelector('.righted').innerText"))


async def listed(page: Page) -> list[list[str]]:
    """Every kept text with what is right for it, as they stand in the page."""
    cells = "[...item.querySelectorAll('p')].map(part => part.textContent)"
    found: list[list[str]] = await page.run(f"[...document.querySelectorAll('.kept li')].map(item => {cells})")
    return found


async def fill_in(page: Page, label: str, value: str) -> None:
    """Type into a field of the list, found by its label."""
    labels = "[...document.querySelectorAll('#kept label')]"
    await page.run("document.querySelector('#kept details').open = true")
    await page.run(f"{labels}.find(one => one.textContent === {json.dumps(label)}).querySelector('input').select()")
    await page.write(value)


async def download(page: Page, folder: Path) -> Path:
    await page.run("document.querySelector('#kept article > button').click()")
    path = folder / "corrections.jsonl"
    for _ in range(200):
        if path.is_file() and path.read_bytes().endswith(b"\n"):
            return path
        await asyncio.sleep(0.05)
    raise TimeoutError(f"no file came: {list(folder.iterdir())}")


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().decode().removesuffix("\n").split("\n")]


def read(parent: Bundle, **settings: Any) -> Data:
    return read_data(parse_config({"output": "out", **settings}, FinetuneSettings, "test"), parent)


def labels_of(data: Data, head: str) -> list[Any]:
    """Of the corrections, in words; None where nothing is said."""
    own = data.labels[head]
    names = next(one.spec.labels for one in data.heads if one.spec.name == head)
    rows = [row for row in range(len(data)) if data.names[data.sets[row]] == "corrections"]
    held = [own.truth[row] for row in rows]
    words = [[names[at] for at in cell.nonzero()[0]] if cell.ndim else names[cell] for cell in held]
    return [word if own.known[row] else None for row, word in zip(rows, words, strict=True)]


def test_what_is_put_right_is_trained_on(url: str, served: Bundle, tmp_path: Path) -> None:
    async def look(page: Page) -> None:
        assert await page.run("document.getElementById('corrections').hidden")
        await ask(page, FORMULA)
        asked = [one for one in page.requested if not one.endswith("/metrics")]
        titles = "[...document.querySelectorAll('.head')].map(one => one.querySelectorAll('details.right').length)"
        assert await page.run(titles) == [1, 1, 1, 0, 0]  # neither vector nor spans
        await choose(page, "sentiment", "neutral")
        assert await page.run("document.activeElement.getAttribute('aria-label')") == "put right: sentiment"
        assert not await page.run("document.activeElement.parentElement.open")
        await tick(page, "topics", ["delivery", "quality"])
        assert await note(page, "topics") == "Put right: delivery, quality"
        assert [one for one in page.requested if not one.endswith("/metrics")] == asked
        await ask(page, LONG)
        assert await note(page, "sentiment") == ""
        await choose(page, "stars", "4")
        await tick(page, "topics", [])
        assert await note(page, "topics") == "Put right: none"
        assert await listed(page) == [
            [FORMULA, "sentiment: neutral · topics: delivery, quality"],
            [LONG, "stars: 4 · topics: none"],
        ]
        assert await page.run("document.querySelector('#kept h3').innerText") == "tiny 1 · texts: 2"
        assert not await page.run(LEAVES)
        path = await download(page, tmp_path)
        assert await page.run(LEAVES)
        assert await page.run("Object.keys(localStorage).length + Object.keys(sessionStorage).length") == 0
        assert await page.run("window.owned === undefined && !document.querySelector('img')")
        assert lines_of(path) == [
            {"text": FORMULA, "sentiment": "neutral", "stars": None, "topics": ["delivery", "quality"], "aspect": None},
            {"text": LONG, "sentiment": None, "stars": "4", "topics": [], "aspect": None},
        ]

    visit(url, tmp_path, look)
    row = {"sentiment": "positive", "stars": 5, "topics": ["price"], "aspect": [[0, 4, "x"]]}
    rows = [json.dumps({"text": f"good {at}", **row}) for at in range(20)]
    rows += [json.dumps({"text": f"bad {at}", **row, "sentiment": "negative", "stars": 1}) for at in range(20)]
    (tmp_path / "mine.jsonl").write_text("\n".join(rows), encoding="utf-8")
    labels = {head: head for head in ("sentiment", "stars", "topics", "aspect")}
    sets = {"mine": {"input": str(tmp_path / "mine.jsonl"), "labels": labels}}
    data = read(served, sets=sets, corrections=str(tmp_path / "corrections.jsonl"))
    assert data.rejected == {}
    assert labels_of(data, "sentiment") == ["neutral", None]
    assert labels_of(data, "stars") == [None, "4"]
    assert labels_of(data, "topics") == [["delivery", "quality"], []]
    assert data.labels["aspect"].known[-2:].tolist() == [False, False]
    assert data.texts[-1].startswith("快 快")


def test_a_csv_of_other_names_and_its_corrections(url: str, tmp_path: Path) -> None:
    """Names and separator are the training set's, and the head is new to the parent: the plain command for a CSV."""

    async def look(page: Page) -> None:
        await ask(page, "贵")
        await tick(page, "topics", ["price", "quality"])
        await ask(page, "快")
        await tick(page, "topics", [])
        await fill_in(page, "The text", "comment")
        await fill_in(page, "Head topics", "comment")
        await page.run("document.querySelector('#kept article > button').click()")
        told = await page.run("document.getElementById('status').innerText")
        assert told == "Two columns are called comment: give each its own name."
        await fill_in(page, "Head topics", "about")
        await fill_in(page, "Between several labels of a text", "|")
        path = await download(page, tmp_path)
        others = {"sentiment": None, "stars": None, "aspect": None}
        assert lines_of(path) == [
            {"comment": "贵", "about": "price|quality", **others},
            {"comment": "快", "about": "", **others},
        ]

    visit(url, tmp_path, look)
    cells = ["price|quality", "delivery", "price"]
    rows = [f"text {at},{cells[at % 3]}" for at in range(30)]
    (tmp_path / "my.csv").write_text("\n".join(["comment,about", *rows]), encoding="utf-8")
    settings = {"input": str(tmp_path / "my.csv"), "text": "comment", "label": "about", "head": "topics"}
    data = read(tiny_bundle(tmp_path / "parent"), **settings, corrections=str(tmp_path / "corrections.jsonl"))
    assert [(head.spec.kind, head.spec.labels) for head in data.heads] == [("multi", TOPICS.labels)]
    assert labels_of(data, "topics") == [["price", "quality"], []]


def test_corrections_are_changed_taken_back_and_removed(url: str, tmp_path: Path) -> None:
    async def look(page: Page) -> None:
        await ask(page, "好")
        await choose(page, "stars", "2")
        await choose(page, "stars", "3")
        await choose(page, "sentiment", "negative")
        assert await listed(page) == [["好", "stars: 3 · sentiment: negative"]]
        await download(page, tmp_path)
        assert await page.run(LEAVES)
        await open_by_key(page, "stars")
        await page.run(f"{block('stars')}.querySelector('button[type=button]').click()")
        assert await listed(page) == [["好", "sentiment: negative"]]
        assert not await page.run(LEAVES)
        assert await note(page, "stars") == ""
        await page.run("document.querySelector('[data-language=zh]').click()")
        assert await note(page, "sentiment") == "更正为：negative"
        assert await page.run("document.querySelector('#kept h3').innerText") == "tiny 1 · 文本 1 条"
        await page.run("document.querySelector('.kept button').click()")
        assert await page.run("document.getElementById('corrections').hidden")
        assert await page.run("document.activeElement.id") == "text"
        assert await note(page, "sentiment") == ""
        assert await page.run(LEAVES)

    visit(url, tmp_path, look)


def test_models_don_t_share_a_file(url: str, tmp_path: Path) -> None:
    async def look(page: Page) -> None:
        await ask(page, "好")
        await choose(page, "stars", "1")
        await page.run("document.getElementById('model').focus()")
        await page.press("ArrowDown", 40)
        await ask(page, "好")
        assert await note(page, "stars") == ""
        await choose(page, "stars", "5")
        titles = await page.run("[...document.querySelectorAll('#kept h3')].map(one => one.innerText)")
        assert titles == ["tiny 1 · texts: 1", "again 1 · texts: 1"]
        assert await listed(page) == [["好", "stars: 1"], ["好", "stars: 5"]]
        assert [line["stars"] for line in lines_of(await download(page, tmp_path))] == ["1"]

    visit(url, tmp_path, look)


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_narrow_screen_and_every_field_has_a_name(url: str, tmp_path: Path, dark: bool) -> None:
    async def look(page: Page) -> None:
        await page.open(url, width=360, height=740, dark=dark)
        await page.until("document.querySelectorAll('#heads input').length === 5")
        await ask(page, "w" * 300)
        await tick(page, "topics", ["price"])
        await page.run("for (const one of document.querySelectorAll('details')) one.open = true")
        assert await page.run("document.documentElement.scrollWidth") == 360
        names = "[...document.querySelectorAll('select, textarea, input')].filter(one => !one.labels.length).length"
        assert await page.run(names) == 0

    visit(url, tmp_path, look)
