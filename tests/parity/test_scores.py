"""The same text has the same score: as transformers gives it, alone or among others, in any order and any batch."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MegatronBertConfig, MegatronBertForSequenceClassification

from models.bundle import Bundle
from models.heads import SENTIMENT_LABELS
from models.scorer import Scorer
from models.tokeniser import Tokens
from tests.tiny import tiny_bundle

pytestmark = pytest.mark.slow

MAX_LENGTH = 64


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("parity") / "tiny", max_length=MAX_LENGTH)


@pytest.fixture(scope="module")
def theirs(bundle: Bundle) -> MegatronBertForSequenceClassification:
    """transformers' own class, filled from the bundle's safetensors; the sentiment head is its classifier."""
    arch = bundle.spec.architecture.model_dump(exclude={"family"})
    model = MegatronBertForSequenceClassification(MegatronBertConfig(**arch, num_labels=3)).eval()
    tensors = bundle.tensors()
    state = {name: tensor for name, tensor in tensors.items() if name.startswith("bert.")}
    state |= {f"classifier.{part}": tensors[f"heads.sentiment.{part}"] for part in ("weight", "bias")}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (missing, unexpected) == ([], [])
    return model


def random_tokens(lengths: list[int], seed: int = 0) -> Tokens:
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, 100, sum(lengths), dtype=np.int32)
    return Tokens(ids, np.array(lengths, np.int32), np.zeros(len(lengths), np.bool_))


def probs(table: pa.Table) -> np.ndarray:
    return np.stack([table[f"prob_{label}"].to_numpy() for label in SENTIMENT_LABELS], axis=1)


@pytest.mark.parametrize(
    "lengths", [[1], [MAX_LENGTH], [3] * 20, list(range(1, MAX_LENGTH + 1)), [MAX_LENGTH, *[2] * 9]]
)
def test_as_transformers(bundle: Bundle, theirs: MegatronBertForSequenceClassification, lengths: list[int]) -> None:
    tokens = random_tokens(lengths)
    ours = probs(Scorer(bundle, token_budget=100).score(tokens))
    temperature = bundle.spec.heads[0].temperature
    begin = 0
    for row, length in enumerate(lengths):
        ids = torch.from_numpy(tokens.ids[begin : begin + length].astype(np.int64))[None]
        begin += length
        with torch.inference_mode():
            expected = torch.softmax(theirs(input_ids=ids).logits[0] / temperature, -1)
        np.testing.assert_allclose(ours[row], expected.numpy(), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, MAX_LENGTH), min_size=1, max_size=30),
    budget=st.integers(1, 400),
    order=st.randoms(use_true_random=False),
)
def test_neighbours_order_and_batch_do_not_matter(bundle: Bundle, lengths: list[int], budget: int, order) -> None:
    tokens = random_tokens(lengths)
    alone = probs(Scorer(bundle, token_budget=1).score(tokens))
    places = list(range(len(lengths)))
    order.shuffle(places)
    ends = np.cumsum(tokens.lengths)
    moved = Tokens(
        ids=np.concatenate([tokens.ids[ends[i] - lengths[i] : ends[i]] for i in places]),
        lengths=tokens.lengths[places],
        truncated=tokens.truncated,
    )
    together = probs(Scorer(bundle, token_budget=budget).score(moved))
    np.testing.assert_allclose(together, alone[places], atol=1e-5)


def test_no_text_gives_no_row(bundle: Bundle) -> None:
    scorer = Scorer(bundle, token_budget=100)
    table = scorer.score(random_tokens([]))
    assert (table.num_rows, table.schema) == (0, scorer.schema)


def test_a_text_over_the_limit_is_an_error(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="at most 64 tokens, got 65"):
        Scorer(bundle, token_budget=100).score(random_tokens([65]))


def test_half_precision_stays_within_its_tolerance(bundle: Bundle) -> None:
    tokens = random_tokens(list(range(1, MAX_LENGTH)))
    full, half = (probs(Scorer(bundle, token_budget=500, precision=p).score(tokens)) for p in ("fp32", "bf16"))
    assert np.abs(full - half).max() < 0.15, "random weights are harsher than trained ones"
