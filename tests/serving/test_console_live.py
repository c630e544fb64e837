"""The console in a headless Chromium, against a whole service on the starter bundle."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.chromium import Page, chromium, find_chromium
from tests.serving.conftest import LIVE_KEY

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(find_chromium() is None, reason="needs chromium"),
]
HOSTILE = '<img src=x onerror="window.owned=1"> It\'s bad 😀, `$(touch owned)` & 质量很差'
ASPECTS = "<b>😀</b> plain   text that says &amp; says something about 价格贵"
READY = "document.querySelectorAll('#heads input').length === 9"


def visit(folder: Path, what: Callable[[Page], Awaitable[None]], language: str = "en-US") -> None:
    async def main() -> None:
        async with chromium(folder / "profile", language) as page:
            await what(page)

    asyncio.run(main())


def score(url: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = httpx.post(f"{url}/v1/score", json=body, headers={"Authorization": f"Bearer {LIVE_KEY}"})
    (result,) = answer.raise_for_status().json()["results"]
    found: dict[str, Any] = result
    return found


async def text_of(page: Page, selector: str) -> str:
    return str(await page.run(f"document.querySelector({json.dumps(selector)}).innerText"))


async def fill(page: Page, selector: str, text: str) -> None:
    await page.run(f"document.querySelector({json.dumps(selector)}).focus()")
    await page.write(text)


async def unlock(page: Page) -> None:
    """Give the key and leave the field, as a person would."""
    await fill(page, "#key", LIVE_KEY)
    await page.press("Tab", 9)
    await page.until(READY)


async def ask(page: Page, text: str) -> None:
    await page.run("document.getElementById('text').value = ''")
    await fill(page, "#text", text)
    await page.press("Enter", 13, "\r", modifiers=2)
    await page.until("document.getElementById('status').innerText && !document.getElementById('submit').disabled")


def test_a_text_is_scored_and_explained_and_stays_text(live: str, tmp_path: Path) -> None:
    async def look(page: Page) -> None:
        await page.open(live)
        await page.until("document.getElementById('fault').innerText.includes('401')")
        await unlock(page)
        assert await text_of(page, "#fault") == ""
        await ask(page, HOSTILE)
        assert (await text_of(page, "#scores h3")).startswith("sentiment: ")
        bars = await page.run("[...document.querySelectorAll('.bar')].map(bar => bar.innerText.split('\\n'))")
        assert [label for label, _ in bars[:8]] == ["negative", "neutral", "positive", "1", "2", "3", "4", "5"]
        assert sum(float(number) for _, number in bars[:3]) == pytest.approx(1, abs=0.002)
        assert await text_of(page, "#attributions .marked") == HOSTILE
        marked = await page.run("[...document.querySelectorAll('#attributions mark')].map(mark => mark.innerText)")
        assert {"bad", "差"} <= set(marked)
        assert all(word in HOSTILE for word in marked)
        assert await page.run("window.owned === undefined && !document.querySelector('img')")
        assert await page.run("Object.keys(localStorage).length + Object.keys(sessionStorage).length") == 0
        assert page.seen == ["Failed to load resource: the server responded with a status of 401 (Unauthorized)"] * 2
        assert all(url.startswith(live) for url in page.requested)

    visit(tmp_path, look)


def test_of_many_labels_the_likeliest_are_shown_and_the_others_unfold(live: str, tmp_path: Path) -> None:
    async def look(page: Page) -> None:
        await page.open(live)
        await page.until("document.getElementById('fault').innerText")
        await unlock(page)
        await ask(page, "the parcel came late and the refund took weeks")
        numbers = ".map(bar => Number(bar.querySelector('.number').textContent))"
        block = "[...document.querySelectorAll('.head')].find(one => one.innerText.startsWith('topics'))"
        shown = await page.run(f"[...{block}.querySelectorAll(':scope > .bar')]{numbers}")
        others = await page.run(f"[...{block}.querySelectorAll('details:last-child .bar')]{numbers}")
        assert (len(shown), len(others)) == (6, 21)
        assert shown + others == sorted(shown + others, reverse=True)

    visit(tmp_path, look)


def test_both_snippets_do_what_the_page_did(live: str, tmp_path: Path) -> None:
    async def look(page: Page) -> None:
        await page.open(live)
        await page.until("document.getElementById('fault').innerText")
        await unlock(page)
        others = "document.querySelectorAll('#heads input:not([value=sentiment])')"
        await page.run(f"{others}.forEach(one => one.click())")
        await ask(page, HOSTILE)
        shown = [await page.run(f"document.getElementById('{name}').textContent") for name in ("curl", "python")]
        assert LIVE_KEY not in "".join(shown)
        env = {"VERBATIM_KEY": LIVE_KEY, "PATH": "/usr/bin:/bin", "NO_PROXY": "127.0.0.1"}
        curl = await asyncio.to_thread(
            subprocess.run, ["bash", "-c", f"{shown[0]} -s"], env=env, cwd=tmp_path, capture_output=True, text=True
        )
        (result,) = json.loads(curl.stdout)["results"]
        assert list(result["scores"]) == ["sentiment", "prob_negative", "prob_neutral", "prob_positive"]
        assert not (tmp_path / "owned").exists()
        python = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", shown[1]], env=env, capture_output=True, text=True
        )
        assert python.stdout.strip() == str([result]), python.stderr

    visit(tmp_path, look)


def test_aspects_are_marked_and_cards_are_shown(live: str, tmp_path: Path) -> None:
    async def look(page: Page) -> None:
        await page.open(live)
        await page.until("document.getElementById('fault').innerText")
        await unlock(page)
        assert "How it came to be" in await page.run("document.querySelector('.card').textContent")
        assert await page.run("document.querySelectorAll('.card table').length") > 1
        await page.run("document.getElementById('model').focus()")
        await page.press("ArrowDown", 40)
        await page.until("document.querySelector('#heads input[value=aspect]')")
        await ask(page, ASPECTS)
        result = await asyncio.to_thread(score, live, {"model": "aspects", "texts": ASPECTS})
        assert result["clean_text"] == "😀 plain text that says & says something about 价格贵"
        expected = [result["clean_text"][span["start"] : span["end"]] for span in result["scores"]["aspect"]]
        notes = [f" {span['label']} {span['prob']:.2f}" for span in result["scores"]["aspect"]]
        assert expected
        assert await page.run("[...document.querySelectorAll('#spans small')].map(note => note.textContent)") == notes
        marks = "[...document.querySelectorAll('#spans mark')].map(mark => mark.firstChild.textContent)"
        assert await page.run(marks) == expected
        assert await text_of(page, "#scores h3") == "vector: a vector of 32 numbers"

    visit(tmp_path, look)


@pytest.mark.parametrize(("language", "word"), [("zh-CN", "打分"), ("de-DE", "Score")])
def test_the_browser_s_language_is_the_page_s_until_it_is_switched(
    live: str, tmp_path: Path, language: str, word: str
) -> None:
    async def look(page: Page) -> None:
        await page.open(live)
        await page.until("document.getElementById('submit').innerText")
        assert await text_of(page, "#submit") == word
        await page.run("document.querySelector('[data-language=en]').click()")
        assert await text_of(page, "#submit") == "Score"
        await page.run("document.querySelector('[data-language=zh]').click()")
        assert await text_of(page, "#submit") == "打分"
        assert await page.run("document.documentElement.lang") == "zh-CN"

    visit(tmp_path, look, language)


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_narrow_screen(live: str, tmp_path: Path, dark: bool) -> None:
    async def look(page: Page) -> None:
        await page.open(live, width=360, height=740, dark=dark)
        await page.until("document.getElementById('fault').innerText")
        await unlock(page)
        await ask(page, "word " * 20 + "w" * 200)
        await page.run("for (const one of document.querySelectorAll('details')) one.open = true")
        assert await page.run("document.documentElement.scrollWidth") == 360
        background = await page.run("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(16, 20, 24)" if dark else "rgb(246, 247, 249)")

    visit(tmp_path, look)


def test_every_control_is_reached_by_the_keyboard(live: str, tmp_path: Path) -> None:
    async def look(page: Page) -> None:
        await page.open(live)
        await page.until("document.getElementById('fault').innerText")
        await unlock(page)
        await page.run("document.activeElement.blur()")
        await page.run("document.body.tabIndex = -1; document.body.focus()")
        reached = []
        for _ in range(23):
            await page.press("Tab", 9)
            reached.append(await page.run("document.activeElement.id || document.activeElement.textContent"))
            assert await page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid", reached
        assert reached[:7] == ["Skip to the text", "English", "中文", "text", "model", "explain", "key"]
        assert "submit" in reached
        assert "Copy" in reached
        assert "Model card" in reached
        names = "[...document.querySelectorAll('select, textarea, input')].filter(one => !one.labels.length).length"
        assert await page.run(names) == 0

    visit(tmp_path, look)
