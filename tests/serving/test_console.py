"""The console's files: what is answered for them, under which policy, and colours that can be read."""

import re
from html.parser import HTMLParser

import pytest
from starlette.testclient import TestClient

from serving.console.routes import page_files

FILES = page_files()
SCRIPTS = {name: file.content.decode() for name, file in FILES.items() if name.endswith(".js")}
CSS = FILES["console.css"].content.decode()
TEXT_ON_GROUND = [
    *[(ink, ground) for ink in ("ink", "quiet", "accent", "fault") for ground in ("ground", "sheet")],
    *[("ink", mark) for mark in ("more", "less", "aspect")],
    ("on-accent", "accent"),
]


def path_of(name: str) -> str:
    return "/" if name == "index.html" else f"/console/{name}"


@pytest.mark.parametrize("name", FILES)
def test_every_file_has_its_type_policy_and_tag(client: TestClient, name: str) -> None:
    answer = client.get(path_of(name))
    assert (answer.status_code, answer.content) == (200, FILES[name].content)
    assert answer.headers["content-type"] == FILES[name].media_type
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    tag = answer.headers["etag"]
    for known in (tag, f'"other", W/{tag}'):
        again = client.get(path_of(name), headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get(path_of(name), headers={"if-none-match": '"other"'}).status_code == 200
    head = client.head(path_of(name))
    assert (head.status_code, head.content) == (200, b"")


def test_nothing_else_is_answered(client: TestClient) -> None:
    for path in ("/console/", "/console/routes.py", "/console/../routes.py", "/console/%2e%2e/routes.py"):
        assert client.get(path).status_code == 404, path
    assert client.post("/").status_code == 405
    assert not [path for path in client.get("/openapi.json").json()["paths"] if "console" in path or path == "/"]


def test_the_page_needs_no_key(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("asked for a key")

    monkeypatch.setattr(client.service, "identify", refuse)  # type: ignore[attr-defined]
    assert {client.get(path_of(name)).status_code for name in FILES} == {200}


class _Page(HTMLParser):
    """Collects what a page loads, and what the policy would refuse in it."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: set[str] = set()
        self.inline: list[str] = []
        self.words: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "link", "img"):
            self.loads.add(given.get("src") or given.get("href") or "")
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        self.inline += [tag] * (tag == "style" or (tag == "script" and "src" not in given))
        self.words |= {str(given["data-word"])} if "data-word" in given else set()


def test_all_that_is_loaded_ships_with_the_page() -> None:
    page = _Page()
    page.feed(FILES["index.html"].content.decode())
    assert page.inline == []
    assert page.loads == {"/console/icon.svg", "/console/console.css", "/console/console.js"}
    imported = {name for script in SCRIPTS.values() for name in re.findall(r'from "\./([\w.]+)"', script)}
    assert imported | {"console.js"} == SCRIPTS.keys()
    assert not re.findall(r"url\(|@import", CSS)


def test_no_text_becomes_markup_and_nothing_is_stored() -> None:
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\("
    forbidden = rf"{markup}|localStorage|sessionStorage|document\.cookie|indexedDB"
    assert {name: found for name, script in SCRIPTS.items() if (found := re.findall(forbidden, script))} == {}


def test_both_languages_have_every_word() -> None:
    page = _Page()
    page.feed(FILES["index.html"].content.decode())
    english, chinese = (
        dict(re.findall(r"^    (\w+): \"(.*)\",$", part, re.M)) for part in SCRIPTS["words.js"].split("  zh: {")
    )
    assert english.keys() == chinese.keys()
    assert page.words <= english.keys()
    used = {name for script in SCRIPTS.values() for name in re.findall(r'\bsay\("(\w+)"', script)}
    assert used <= english.keys()
    for name, text in english.items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", chinese[name])), name


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize(("ink", "ground"), TEXT_ON_GROUND)
def test_colours_have_enough_contrast(mode: str, ink: str, ground: str) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1 for text."""
    palette = palette_of(mode)
    assert contrast(palette[ink], palette[ground]) >= 4.5


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_borders_of_controls_can_be_seen(mode: str) -> None:
    """WCAG 2.2, 1.4.11: 3 to 1."""
    palette = palette_of(mode)
    assert min(contrast(palette["edge"], palette[ground]) for ground in ("ground", "sheet")) >= 3


def palette_of(mode: str) -> dict[str, str]:
    part = CSS.split("@media (prefers-color")[["light", "dark"].index(mode)]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", part))


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG's relative luminances."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
