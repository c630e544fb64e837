"""The shipped bundle: whole, small, sensible on plain examples, and the same numbers as transformers gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import MegatronBertConfig, MegatronBertModel

from models.bundle import Bundle, load_bundle
from models.clean import clean
from models.heads import SENTIMENT_LABELS
from models.scorer import Scorer
from models.tokeniser import Tokens

pytestmark = pytest.mark.slow

KINDS = {"sentiment": "single", "stars": "ordinal", "topics": "multi", "intent": "multi", "urgency": "single"}
KINDS |= {"aspects": "token", "emotion": "multi", "brands": "token", "embedding": "embedding"}
FOLDER = Path(__file__).parents[2] / "models" / "bundles" / "starter"
MAX_BYTES = 40_000_000
BRIEF = (
    "我们的新产品受到了客户的广泛好评,销量也呈现出良好的增长趋势。"
    "但是,也有少数客户反映产品使用过程中存在一些问题,我们需要进一步优化产品设计。"
)
POSITIVE = [
    "不错",
    "很好,非常满意,下次还会再来!",
    "质量很好,物流也快,推荐购买。",
    "酒店房间干净,服务热情,早餐也很丰富。",
    "great",
    "I love this phone, the screen is beautiful and the battery lasts all day.",
    "Excellent quality, fits perfectly. Highly recommend!",
    "best purchase i have made this year",
]
NEGATIVE = [
    "垃圾",
    "太差了,再也不会来了",
    "质量很差,用了两天就坏了,客服也不理人。",
    "房间又小又脏,服务态度恶劣,非常失望。",
    "terrible",
    "The charger stopped working after two days and nobody answers my emails.",
    "Poor quality, a complete waste of money.",
    "worst hotel ever, dirty room and rude staff",
]
NEUTRAL = [
    "how do i change my pin",
    "what time does the store open on sunday",
    "can you tell me where my card is accepted",
]

FACTS = [
    "汤洒了一半,米饭是凉的",
    "等到菜都馊了才送上门",
    "the box was empty and support won't answer",
]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(FOLDER)


@pytest.fixture(scope="module")
def scorer(bundle: Bundle) -> Scorer:
    return Scorer(bundle, token_budget=2048)


def score(scorer: Scorer, texts: list[str]) -> pa.Table:
    return scorer.score(scorer.bundle.tokeniser.encode([clean(text) for text in texts], with_offsets=True))


def test_it_is_whole_and_small(bundle: Bundle) -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= MAX_BYTES
    assert bundle.spec.name == "starter"
    assert bundle.spec.languages == ("zh", "en")
    assert {head.name: head.kind for head in bundle.spec.heads} == KINDS
    assert bundle.spec.heads[0].labels == SENTIMENT_LABELS


def test_its_card_says_how_it_was_made() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for said in ("python -m jobs.finetune jobs/starter/finetune.yaml", "seed", "CC BY 4.0", "Limits", "MiniLM-L6-v2"):
        assert said in card


def test_the_larger_side_of_a_report_decides(scorer: Scorer) -> None:
    bad = "新品上市以来口碑很差,退货越来越多,业绩连续下跌。不过,也有个别顾客喜欢它的外观。"
    assert score(scorer, [BRIEF, bad])["sentiment"].to_pylist() == ["positive", "negative"]


def test_no_company_is_found_where_none_is_named(scorer: Scorer) -> None:
    brands = score(scorer, [BRIEF, *POSITIVE, *NEGATIVE, *NEUTRAL, "Tesla falls as Ford gains"])["brands"].to_pylist()
    assert not any(brands[:-1])
    assert "negative" in {span["label"] for span in brands[-1]}


@pytest.mark.parametrize(
    ("texts", "sentiment"),
    [(POSITIVE, "positive"), (NEGATIVE, "negative"), (NEUTRAL, "neutral"), (FACTS, "negative")],
    ids=["positive", "negative", "neutral", "negative facts"],
)
def test_plain_examples(scorer: Scorer, texts: list[str], sentiment: str) -> None:
    answers = score(scorer, texts)["sentiment"].to_pylist()
    assert dict(zip(texts, answers, strict=True)) == dict.fromkeys(texts, sentiment)


def test_stars_follow_sentiment(scorer: Scorer) -> None:
    good, bad = (score(scorer, texts)["stars"].to_numpy() for texts in (POSITIVE, NEGATIVE))
    assert good.min() > 3 > bad.max()


def test_probabilities_sum_to_1(scorer: Scorer) -> None:
    table = score(scorer, [*POSITIVE, *NEGATIVE, *NEUTRAL, BRIEF, "", "长" * 600])
    for head in scorer.bundle.spec.heads:
        if head.kind not in ("single", "ordinal"):
            continue
        total = sum(table[name].to_numpy() for name in head.prob_columns)
        np.testing.assert_allclose(total, 1, atol=1e-6)


def test_same_scores_as_transformers(bundle: Bundle, scorer: Scorer) -> None:
    """fp32, 1e-5 on probabilities, over 50 texts of 1 token to the most."""
    lengths = np.linspace(1, bundle.spec.max_length, 50).astype(np.int32)
    rng = np.random.default_rng(0)
    ids = rng.integers(5, bundle.spec.architecture.vocab_size, lengths.sum()).astype(np.int32)
    nowhere = np.zeros((len(ids), 2), np.int32)  # no word: the spans aren't looked at
    table = scorer.score(Tokens(ids, lengths, np.zeros(len(lengths), dtype=bool), nowhere))
    ours = np.stack([table[f"prob_{label}"].to_numpy() for label in SENTIMENT_LABELS], axis=1)
    model, tensors, head = reference(bundle), bundle.tensors(), bundle.spec.heads[0]
    weight, bias = (tensors[f"heads.sentiment.{part}"].float() / head.temperature for part in ("weight", "bias"))
    ends = np.cumsum(lengths)
    with torch.inference_mode():
        states = [
            model(torch.from_numpy(ids[end - n : end]).long()[None]) for n, end in zip(lengths, ends, strict=True)
        ]
        means = torch.stack([state.last_hidden_state[0].mean(0) for state in states])
        theirs = torch.softmax(means @ weight.T + bias, dim=1).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


def reference(bundle: Bundle) -> MegatronBertModel:
    """transformers' own model on the bundle's weights, whose heads read the mean of its hidden states."""
    assert bundle.spec.heads[0].pooling == "mean"
    shape = bundle.spec.architecture.model_dump(exclude={"family"})
    model = MegatronBertModel(MegatronBertConfig(**shape), add_pooling_layer=False).eval()
    tensors = {name: tensor.float() for name, tensor in bundle.tensors().items() if not name.startswith("heads.")}
    model.load_state_dict({name.removeprefix("bert."): tensor for name, tensor in tensors.items()})
    return model
