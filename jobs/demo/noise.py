"""How people type: haste, habits and machines spoil a clean text a little, never its sense.

Numbers, addresses and hostile strings are added after this step, so that they stay whole.
"""

import random
import re
from functools import cache

from jobs.demo.phrases import Phrases, phrases

_FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")


def roughen(rng: random.Random, book: Phrases, text: str, sentiment: str, source: str) -> str:
    """`text` as one customer types it in `source`; agents, who write call notes, mistype but don't decorate."""
    if rng.random() < 0.07:
        text = _mistyped(rng, book, text)
    if source == "call_notes":
        return text
    text = _hasty_zh(rng, text) if book.lang == "zh" else _hasty_en(rng, text)
    text = _decorated(rng, book, text, sentiment, source)
    return _through_a_web_form(text) if rng.random() < 0.025 else text


def traditional(text: str) -> str:
    """`text` in traditional characters: whole words first, then one by one, as far as the word list goes."""
    forms = _traditional_forms()
    return re.sub("|".join(forms), lambda simplified: forms[simplified[0]], text)


@cache
def _traditional_forms() -> dict[str, str]:
    entries = phrases("zh").lists["traditional"]
    return {entry[: len(entry) // 2]: entry[len(entry) // 2 :] for entry in entries}


def _mistyped(rng: random.Random, book: Phrases, text: str) -> str:
    """One word of the list of common slips, or two neighbouring letters swapped."""
    slips = dict(zip(book.lists["typos.wrong"], book.lists["typos.typed"], strict=True))
    words = [word for word in slips if re.search(_word(book, word), text)]
    if words:
        word = rng.choice(words)
        return re.sub(_word(book, word), slips[word], text, count=1)
    long_words = list(re.finditer(r"\b[a-z]{6,}\b", text))
    if not long_words:
        return text
    at = rng.choice(long_words).start() + rng.randrange(1, 4)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def _word(book: Phrases, word: str) -> str:
    return word if book.lang == "zh" else rf"\b{word}\b"


def _hasty_zh(rng: random.Random, text: str) -> str:
    if rng.random() < 0.06:
        text = text.translate(_FULL_WIDTH)
    if rng.random() < 0.05:
        text = text.replace("，", ",")
    if rng.random() < 0.05:
        text = text.replace("！", "！！！")
    if rng.random() < 0.05:
        text = re.sub(r"太(?=[差大多贵慢卡坑吵小重])|超(?=级|喜欢|好)", lambda word: word[0] * 3, text, count=1)
    return text


def _hasty_en(rng: random.Random, text: str) -> str:
    habit = rng.random()
    if habit < 0.16:
        text = text.lower()
    elif habit < 0.22:
        text = text.lower().replace("'", "")
    elif habit < 0.24:
        text = text.upper()
    if rng.random() < 0.08:
        text = re.sub(
            r"\b(so|too|super)\b(?! far\b)", lambda word: word[0] + word[0][-1] * rng.randrange(2, 5), text, count=1
        )
    if rng.random() < 0.08:
        text = re.sub(
            r"\b(never|not|really|every|always|so|love|terrible)\b", lambda word: word[0].upper(), text, count=1
        )
    if rng.random() < 0.05:
        text = re.sub(r"[.!]$", rng.choice(("!!!", "!!", "...")), text)
    return text


def _decorated(rng: random.Random, book: Phrases, text: str, sentiment: str, source: str) -> str:
    """A sound before the text, an emoji or a Weibo tag (or a smiley) behind it."""
    if rng.random() < 0.05:
        sound = rng.choice(book.lists[f"sounds.{sentiment}"])
        text = f"{sound}，{text}" if book.lang == "zh" else f"{sound}, {text}"
    if rng.random() < (0.3 if source == "social" else 0.11):
        text += rng.choice(("", " ")) + rng.choice(book.lists[f"emoji.{sentiment}"])
    if rng.random() < (0.25 if source == "social" else 0.03):
        text += rng.choice(("", " ") if book.lang == "zh" else (" ",)) + rng.choice(book.lists[f"tags.{sentiment}"])
    return text


def _through_a_web_form(text: str) -> str:
    """HTML leftovers: escaped quotes and ampersands, line breaks as tags, hard spaces."""
    text = text.replace("'", "&#39;").replace('"', "&quot;").replace(" and ", " &amp; ")
    return text.replace("。", "。<br/>", 1).replace(". ", ".<br /><br />", 1).replace(" ", "&nbsp;", 1)
