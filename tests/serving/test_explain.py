"""Words, what is left without them, and which score is explained."""

import pytest

from models.clean import clean_with_offsets
from models.heads import HeadSpec
from serving.errors import RequestError
from serving.explain import MAX_SPANS, attributions, spans, target, without
from tests.tiny import HEADS


def words(text: str) -> list[str]:
    return [text[span.start : span.end] for span in spans(text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("!!! ...", []),
        ("The battery isn't great.", ["The", "battery", "isn't", "great"]),
        ("质量很差，不买iPhone 15了", ["质", "量", "很", "差", "不", "买", "iPhone", "15", "了"]),
        ("とてもいい", ["と", "て", "も", "い", "い"]),
        ("배송이 빨라요", ["배송이", "빨라요"]),
        ("snake_case", ["snake", "case"]),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert words(text) == found


def test_a_long_text_is_cut_into_runs_of_words() -> None:
    text = " ".join(f"w{n}" for n in range(1000))
    found = spans(text)
    assert len(found) == MAX_SPANS
    assert (found[0].start, found[-1].end) == (0, len(text))
    assert " ".join(text[span.start : span.end] for span in found) == text


def test_without() -> None:
    assert without("good phone", spans("good phone")[0]) == " phone"


ROW: dict[str, object] = {"prob_negative": 0.1, "prob_neutral": 0.2, "prob_positive": 0.7, "stars": 4.2}


@pytest.mark.parametrize(
    ("head", "label", "expected"),
    [
        (None, None, ("sentiment", "prob_positive")),
        ("sentiment", "negative", ("sentiment", "prob_negative")),
        ("stars", None, ("stars", "stars")),
        ("stars", "5", ("stars", "prob_stars_5")),
    ],
)
def test_the_score_that_is_explained(head: str | None, label: str | None, expected: tuple[str, str]) -> None:
    assert target(HEADS, head, label, ROW) == expected


def test_a_label_that_the_sentiment_head_does_not_know_is_left_out() -> None:
    two = (HeadSpec(name="sentiment", labels=("negative", "positive")),)
    row: dict[str, object] = {"prob_negative": 0.4, "prob_neutral": None, "prob_positive": 0.6}
    assert target(two, None, None, row) == ("sentiment", "prob_positive")


@pytest.mark.parametrize(("head", "label", "field"), [("none", None, "head"), ("stars", "6", "label")])
def test_no_such_head_or_label(head: str, label: str | None, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        target(HEADS, head, label, ROW)
    assert caught.value.field == field


def test_effects_point_at_the_text_as_it_was_sent() -> None:
    original = "<b>Good</b>   ｐｈｏｎｅ !"
    cleaned = clean_with_offsets(original)
    found = attributions(original, cleaned, spans(cleaned.text), [0.1, -0.4])
    assert [(one.text, one.effect) for one in found] == [("ｐｈｏｎｅ", -0.4), ("Good", 0.1)]
    assert all(original[one.start : one.end] == one.text for one in found)
