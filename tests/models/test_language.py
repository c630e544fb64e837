"""Language tags: by script, by function words, and on the real sets."""

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.language import UNKNOWN, tag

DATA = Path(__file__).parents[3] / "shared/data"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", UNKNOWN),
        ("123 !!! 👍", UNKNOWN),
        ("ok", "en"),
        ("房间很大,早餐不错", "zh"),
        ("鲜の每日很好吃ヽ(^▽^)ノ", "zh"),
        ("iPhone 13 Pro Max 手机很好", "zh"),
        ("my Chinese name 李 is what the staff here always get wrong", "en"),
        ("とても良い商品でした。また買います", "ja"),
        ("배송이 빠르고 좋아요", "ko"),
        ("Очень хороший товар", "ru"),
        ("Πολύ καλό προϊόν", "el"),
        ("מוצר מצוין", "he"),
        ("منتج رائع", "ar"),
        ("बहुत अच्छा उत्पाद", "hi"),
        ("สินค้าดีมาก", "th"),
        ("በጣም ጥሩ መተግበሪያ ነው", "am"),
        ("Great product, works as described. Will buy again", "en"),
        ("The café was nice", "en"),
        ("El producto es muy bueno pero llegó tarde", "es"),
        ("Produto muito bom, chegou antes do prazo", "pt"),
        ("Le produit est très bien mais la livraison est lente", "fr"),
        ("Das Produkt ist sehr gut, aber die Lieferung war langsam", "de"),
        ("Il prodotto è molto buono ma la consegna è lenta", "it"),
    ],
)
def test_examples(text: str, expected: str) -> None:
    assert tag(text) == expected


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_has_a_tag(text: str) -> None:
    language = tag(text)
    assert language == UNKNOWN or (len(language) == 2 and language.isalpha() and language.islower())


@given(st.text("0123456789 .,!?👍\u0301\n", max_size=30))
def test_without_letters_it_is_unknown(text: str) -> None:
    assert tag(text) == UNKNOWN


@pytest.mark.parametrize("piece", ["a", "é", "好", "の", "a ", "好a"])
def test_long_text_is_read_at_its_beginning(piece: str) -> None:
    assert tag(piece * 500_000) == tag(piece * 2_000)


def share(path: Path, column: str, language: str) -> float:
    texts = [text for text in pq.read_table(path, columns=[column]).column(column).to_pylist() if text]
    return sum(tag(text) == language for text in texts) / len(texts)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "column", "language", "least"),
    [
        ("feedback/chnsenticorp", "text", "zh", 0.999),
        ("feedback/weibo2018", "text", "zh", 0.999),
        ("feedback/sst2", "text", "en", 0.999),
        ("feedback/airline_tweets", "text", "en", 0.998),
        ("feedback/bank_app_reviews", "text", "am", 0.039),
        ("demand/olist_order_reviews", "review_comment_message", "pt", 0.92),
    ],
)
def test_real_sets(name: str, column: str, language: str, least: float) -> None:
    if not DATA.is_dir():
        assert "CI" not in os.environ, f"{DATA} must be there in CI"
        pytest.skip(f"{DATA} is absent")
    assert share(DATA / f"{name}.parquet", column, language) >= least
