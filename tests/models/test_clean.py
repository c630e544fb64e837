"""Clean text: each rule by example, the two functions agree, cleaning twice is cleaning once, hostile text is cheap."""

import os
import unicodedata
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.clean import MAX_MARKS, clean, clean_with_offsets

FEEDBACK = Path(__file__).parents[3] / "shared/data/feedback"

# Pieces that the rules act on and that meet to make new ones: nested entities, split tags, marks of every class.
PIECES = [*"&<>＜＆b＞Ａ１½㎏ﷺ´e￣ｶﾞ가ㅠ哈!…1👍ゝ \n"]
PIECES += ["amp;", "lt;", "gt;", "#38;", "#x3c;", "&nbsp;", "<br/>", "<!--", "-->", "a b", "&&&&&"]
PIECES += [*"\u200b\ufe0f\x00\ud800\u00ad\u3000\u2028\U0001d15e\U0001f3fd"]
PIECES += [*"\u0301\u0323\u0338\u0344\u3099\u09c7\u09be\u1100\u1161\u11a8", "\u1100" * 5, "\u0301" * 40]
COMPOSING = "eｶﾞﾟカ가\u1100\u1161\u11a8ㅏ\u0301\u0323\u0308\u09c7\u09be\U00011131\U00011127"
ANY_TEXT = st.text(st.characters(exclude_categories=()))
SPICY_TEXT = st.lists(st.sampled_from(PIECES) | ANY_TEXT, max_size=30).map("".join)


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        ("", ""),
        (" \t\u3000\n", ""),
        ("房间很大，早餐不错。", "房间很大,早餐不错。"),
        ("Good value, Will buy again", "Good value, Will buy again"),
        ("AT&amp;T &#39;n&#x27; R&D; a&nbsp;b", "AT&T 'n' R&D; a b"),
        ("&notanentity; &amp &; &#; &#99999999;", "&notanentity; &amp &; &#; &#99999999;"),
        ("5 &amp;lt; 6", "5 < 6"),
        ("一<br/>二<a href='x'>三</a><!-- 四 -->五", "一 二 三 五"),
        ("&lt;br&gt;bold", "bold"),
        ("a < b, c > d, <3, >_<, <某某>", "a < b, c > d, <3, >_<, <某某>"),
        ("ＡＢＣ１２３（㎏）", "ABC123(kg)"),
        ("cafe\u0301 ｶﾞｷﾞ", "café ガギ"),
        ("\ufeffgo\u200bod\x07 so\u00adft\ud83d", "good soft"),
        ("👍🏽 ❤\ufe0f 👨\u200d👩", "👍 ❤ 👨👩"),
        ("line\r\n\n one\u2028two \u3000three", "line one two three"),
        ("哈哈哈哈哈 soooooo good!!!!!…… 10000000", "哈哈哈 sooo good!!!... 10000000"),
        ("１００００００", "1000000"),
        ("😂😂😂😂😂", "😂😂😂"),
        ("e" + "\u0323\u0301" * 50, "ẹ" + "\u0323\u0323\u0323" + "\u0301" * 3),
    ],
)
def test_rules(original: str, expected: str) -> None:
    assert clean(original) == expected


@given(ANY_TEXT | SPICY_TEXT)
def test_both_functions_agree_and_twice_is_once(text: str) -> None:
    cleaned = clean(text)
    assert clean_with_offsets(text).text == cleaned
    assert clean(cleaned) == cleaned


@given(ANY_TEXT | SPICY_TEXT)
def test_clean_text_holds_nothing_that_the_rules_forbid(text: str) -> None:
    cleaned = clean(text)
    assert cleaned == " ".join(cleaned.split())
    assert unicodedata.is_normalized("NFKC", cleaned)
    assert not {unicodedata.category(character) for character in cleaned} & {"Cc", "Cs", "Zl", "Zp"}
    cleaned.encode()


@given(ANY_TEXT | SPICY_TEXT)
def test_spans_rise_and_are_never_empty(text: str) -> None:
    cleaned = clean_with_offsets(text)
    starts, ends = cleaned.starts.tolist(), cleaned.ends.tolist()
    assert len(starts) == len(ends) == len(cleaned.text)
    assert starts == sorted(starts)
    assert ends == sorted(ends)
    assert all(0 <= start < end <= len(text) for start, end in zip(starts, ends, strict=True))


@given(st.lists(st.sampled_from(COMPOSING), max_size=9))
def test_clusters_give_what_nfkc_gives_on_the_whole(letters: list[str]) -> None:
    text = "x" + "-".join(letters) + "".join(letters)
    assert clean(text) == clean(unicodedata.normalize("NFKC", text))


def test_no_character_normalises_to_one_that_is_dropped() -> None:
    """What the rules' order rests on: characters are dropped before NFKC, not after."""
    for character in map(chr, range(0x110000)):
        if not unicodedata.is_normalized("NFKC", character):
            cleaned = clean(f"x{character}x")
            assert clean(cleaned) == cleaned, hex(ord(character))


@pytest.mark.parametrize(
    ("original", "quote", "expected"),
    [
        ("很好，Ｓｉｚｅ　Ｌ", "Size L", "Ｓｉｚｅ　Ｌ"),
        ("重５㎏！", "5kg", "５㎏"),
        ("<b>屏幕</b>&nbsp;&amp;电池", "屏幕 &电池", "屏幕</b>&nbsp;&amp;电池"),
        ("caf\u0065\u0301 ok", "café", "caf\u0065\u0301"),
        ("不\u200b好 ", "不好", "不\u200b好"),
        ("哈哈哈哈哈，笑", ",笑", "，笑"),
    ],
)
def test_offsets_lead_back_to_the_customers_words(original: str, quote: str, expected: str) -> None:
    cleaned = clean_with_offsets(original)
    begin = cleaned.text.index(quote)
    assert original[cleaned.starts[begin] : cleaned.ends[begin + len(quote) - 1]] == expected


@pytest.mark.parametrize(
    "piece",
    [
        "&",
        "<",
        "&amp;",
        "<!--",
        "<a ",
        "&#38;",
        "&am",
        " \n",
        "１",
        "e\u0301",
        "\u0301\u0323",
        "ㅠㅏ",
        "﹤b﹥",
        "<!-- ",
    ],
)
@pytest.mark.slow
def test_hostile_text_ends_and_settles(piece: str) -> None:
    """A megabyte of what a careless pattern would take hours for; only the test's own time limit is at stake."""
    cleaned = clean(piece * (1_000_000 // len(piece)))
    assert clean(cleaned) == cleaned


@pytest.mark.parametrize("depth", [1, 3, 7, 20])
def test_nesting_without_end_is_cut(depth: int) -> None:
    for text in ("&" + "amp;" * depth + "lt;b&gt;x", "<!-- " * depth + "x" + " -->" * depth):
        cleaned = clean(text)
        assert clean(cleaned) == cleaned
        assert len(cleaned) <= len(text)


def test_marks_are_bounded() -> None:
    assert len(clean("x" + "\u0300\u0301\u0302\u0303" * 1000)) <= 1 + MAX_MARKS


@pytest.mark.data
def test_real_sets() -> None:
    if not FEEDBACK.is_dir():
        assert "CI" not in os.environ, f"{FEEDBACK} must be there in CI"
        pytest.skip(f"{FEEDBACK} is absent")
    for name in ("chnsenticorp", "car_brand_polarity", "waimai_10k", "airline_tweets", "bank_app_reviews"):
        texts = pq.read_table(FEEDBACK / f"{name}.parquet", columns=["text"]).column("text").to_pylist()
        for text in texts[:2000]:
            cleaned = clean(text)
            assert clean_with_offsets(text).text == cleaned == clean(cleaned)
            assert "&amp;" not in cleaned
            assert "<br" not in cleaned
