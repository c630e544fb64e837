"""The same text has the same score: as transformers gives it, alone or among others, in any order and any batch."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MegatronBertConfig, MegatronBertForSequenceClassification

from jobs.reading.columns import Columns
from jobs.reading.parts import Part, UnitLimits
from jobs.reading.rejects import REJECTED_SCHEMA
from jobs.score.layout import SetLayout
from jobs.score.recipe import Recipe
from jobs.score.scoring import ScoreUnit
from jobs.score.tokenise import tokenise
from jobs.score.write import to_parquet
from models.architecture import Family
from models.bundle import Bundle
from models.clean import clean
from models.forward import Forward, build_forward
from models.heads import SENTIMENT_LABELS, HeadSpec
from models.scorer import Scorer
from models.tokeniser import Tokens
from tests.tiny import HEADS, tiny_bundle

pytestmark = pytest.mark.slow

MAX_LENGTH = 64
EVERY_KIND = (
    *HEADS,
    HeadSpec(name="emotions", kind="multi", labels=("joy", "anger", "fear"), pooling="first"),
    HeadSpec(name="aspects", kind="token", labels=("O", "B-food", "I-food", "B-price", "I-price")),
    HeadSpec(name="embedding", kind="embedding", size=32, pooling="mean", normalise=True),
)


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
    places = np.concatenate([np.arange(length) for length in lengths]) if lengths else np.empty(0, np.int64)
    offsets = np.stack([places, places + 1], axis=1).astype(np.int32)  # each token is a word of one character
    return Tokens(ids, np.array(lengths, np.int32), np.zeros(len(lengths), np.bool_), offsets)


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


# --- every kind of head, off every family's trunk


@pytest.fixture(scope="module", params=["megatron-bert", "bert", "roberta", "xlm-roberta"])
def many_heads(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    family: Family = request.param
    folder = tmp_path_factory.mktemp(family) / "many"
    return tiny_bundle(folder, max_length=MAX_LENGTH, family=family, heads=EVERY_KIND)


def chosen(tokens: Tokens, rows: list[int]) -> Tokens:
    """Some of the texts, in another order."""
    ends = np.cumsum(tokens.lengths)
    places = np.concatenate([np.arange(ends[row] - tokens.lengths[row], ends[row]) for row in rows])
    assert tokens.offsets is not None
    return Tokens(tokens.ids[places], tokens.lengths[rows], tokens.truncated[rows], tokens.offsets[places])


def numbers(value: object) -> Iterator[object]:
    """All that a row holds, flat; numbers may differ a little."""
    if isinstance(value, dict):
        yield from (number for inner in value.values() for number in numbers(inner))
    elif isinstance(value, list):
        yield from (number for inner in [len(value), *value] for number in numbers(inner))
    else:
        yield pytest.approx(value, abs=1e-5) if isinstance(value, float) else value


@pytest.mark.parametrize("budget", [1, 70, 10_000])
@pytest.mark.parametrize("lengths", [[1, 64, 2, 2, 33, 31, 30, 1], [64, *[1] * 30], [5] * 7, [1]])
def test_every_head_is_independent_of_the_batch(many_heads: Bundle, budget: int, lengths: list[int]) -> None:
    tokens = random_tokens(lengths)
    rows = np.random.default_rng(budget).permutation(len(lengths)).tolist()
    together = Scorer(many_heads, token_budget=budget).score(chosen(tokens, rows)).to_pylist()
    for row, got in zip(rows, together, strict=True):
        (alone,) = Scorer(many_heads, token_budget=100).score(chosen(tokens, [row])).to_pylist()
        assert list(numbers(got)) == list(numbers(alone))
        assert all(0 <= span["start"] < span["end"] <= lengths[row] for span in got["aspects"])


def test_half_precision_of_every_family(many_heads: Bundle) -> None:
    tokens = random_tokens(list(range(1, MAX_LENGTH)))
    full, half = (Scorer(many_heads, token_budget=500, precision=p).score(tokens) for p in ("fp32", "bf16"))
    assert np.abs(probs(full) - probs(half)).max() < 0.15, "random weights are harsher than trained ones"
    cosines = (np.stack(full["embedding"].to_numpy()) * np.stack(half["embedding"].to_numpy())).sum(axis=1)
    assert cosines.min() > 0.999


class CountedForward:
    """A forward pass that notes the lengths of each batch it is given."""

    def __init__(self, forward: Forward) -> None:
        self._forward, self.first_only = forward, forward.first_only
        self.passes: list[list[int]] = []

    def __call__(self, ids: np.ndarray, lengths: np.ndarray) -> list[torch.Tensor]:
        self.passes.append(lengths.tolist())
        return self._forward(ids, lengths)


def test_all_heads_come_off_one_pass(many_heads: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = CountedForward(build_forward(many_heads, "fp32", torch.device("cpu")))
    monkeypatch.setattr("models.scorer.build_forward", lambda *_: forward)
    scorer = Scorer(many_heads, token_budget=1000)
    table = scorer.score(random_tokens([3, 9, 3]))
    assert forward.passes == [[9, 3, 3]]
    assert table.schema == scorer.schema
    assert table.column_names[-6:] == [
        "emotions",
        "prob_emotions_joy",
        "prob_emotions_anger",
        "prob_emotions_fear",
        "aspects",
        "embedding",
    ]


def test_no_text_gives_no_row_of_any_kind(many_heads: Bundle) -> None:
    scorer = Scorer(many_heads, token_budget=100)
    table = scorer.score(many_heads.tokeniser.encode([], with_offsets=True))
    assert (table.num_rows, table.schema) == (0, scorer.schema)


def test_a_token_head_needs_offsets(many_heads: Bundle) -> None:
    with pytest.raises(ValueError, match="has a token head: its texts must be tokenised with offsets"):
        Scorer(many_heads, token_budget=100).score(many_heads.tokeniser.encode(["x"]))


TEXTS = ["<b>质量</b>   很好", "slow  ＡＢ", "质量 很好", "好" * 100, "<b>质量</b>   很好", "a"]


def score_as_the_job_does(bundle: Bundle, texts: list[str], tmp_path: Path) -> pa.Table:
    count = len(texts)
    place = {"row": pa.array(range(count), pa.int64()), "byte": pa.nulls(count, pa.int64())}
    ids = pa.array([str(row) for row in range(count)], pa.string())
    rows = pa.table({"id": ids, "text": pa.array(texts, pa.string()), **place})
    columns = Columns("id", "text")
    part = Part(0, True, rows, REJECTED_SCHEMA.empty_table(), count)
    unit = tokenise(part, "unit", "file", columns, bundle.tokeniser, with_offsets=True)
    layout = SetLayout(str(tmp_path), str(bundle), "f")
    heads = tuple(head.name for head in bundle.spec.heads)
    recipe = Recipe(str(bundle.folder), heads, columns, UnitLimits(), layout, "fp32", "cpu", token_budget=20, threads=1)
    return ScoreUnit(recipe).score(unit).scores


def test_the_job_gives_the_same_answers_of_every_kind(many_heads: Bundle, tmp_path: Path) -> None:
    table = score_as_the_job_does(many_heads, TEXTS, tmp_path)
    cleaned = [clean(text) for text in TEXTS]
    direct = Scorer(many_heads, token_budget=1000).score(many_heads.tokeniser.encode(cleaned, with_offsets=True))
    for name in direct.column_names:
        assert list(numbers(table[name].to_pylist())) == list(numbers(direct[name].to_pylist())), name
    assert any(table["aspects"].to_pylist()), "random weights find spans"
    for text, spans in zip(cleaned, table["aspects"].to_pylist(), strict=True):
        for span in spans:
            words = text[span["start"] : span["end"]]
            assert words == words.strip() != "", "a span begins and ends with a word of the clean text"
    assert pq.read_table(io.BytesIO(to_parquet(table, {}))).equals(table)


def test_a_unit_of_no_rows_has_every_kind_of_column(many_heads: Bundle, tmp_path: Path) -> None:
    full, empty = (score_as_the_job_does(many_heads, texts, tmp_path) for texts in (TEXTS, []))
    assert (empty.num_rows, empty.schema) == (0, full.schema)
