"""What fine-tuning makes of few examples, and how it judges what was learnt: calibration, canaries, membership."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.finetune import learn as learn_module
from jobs.finetune.calibrate import (
    calibrate,
    in_question,
    likeliest_temperature,
    probabilities,
    set_weights,
    suggest_abstention,
)
from jobs.finetune.canaries import exposure, plant
from jobs.finetune.data import Labels, label_counts
from jobs.finetune.exam import Exam
from jobs.finetune.fewshot import Examples, learn_few, word_accuracy
from jobs.finetune.learn import learn_from_few, may_be_few, prepare
from jobs.finetune.membership import attack, membership
from jobs.finetune.settings import FinetuneError
from jobs.finetune.split import DEV, TRAIN, TUNE
from jobs.finetune.tuner import build_tuner
from jobs.train.corpus import corpus_of
from models.bundle import Bundle
from models.heads import HeadSpec
from models.tokeniser import Tokeniser, Tokens
from tests.jobs import finetune_fixtures
from tests.jobs.finetune_fixtures import data_of, reviews, settings_of

parent = finetune_fixtures.parent
pytestmark = pytest.mark.usefixtures("one_thread")


# --- few examples


def test_few_examples_are_learnt_by_the_head_alone() -> None:
    rng = np.random.default_rng(0)
    codes = np.arange(48) % 3
    centres = rng.normal(size=(3, 16)) * 3
    vectors = (centres[codes] + rng.normal(size=(48, 16)) + 5).astype(np.float32)
    few = learn_few(Examples(vectors, codes, np.ones(48, np.float32), 3), seed=0)
    assert ((vectors @ few.head.weight.numpy().T + few.head.bias.numpy()).argmax(axis=1) == codes).all()
    assert (few.logits_nc.argmax(axis=1) == codes).mean() > 0.9


def test_noise_is_not_learnt() -> None:
    rng = np.random.default_rng(0)
    vectors, codes = rng.normal(size=(40, 64)).astype(np.float32), np.arange(40) % 2
    few = learn_few(Examples(vectors, codes, np.ones(40, np.float32), 2), seed=0)
    assert few.penalty == 1.0  # the strongest there is


@pytest.mark.parametrize(
    ("num", "changes", "expected"),
    [
        (30, {}, True),
        (200, {}, False),
        (200, {"method": "fewshot"}, True),
        (30, {"method": "finetune"}, False),
        (30, {"adapter": {"rank": 2}}, False),
    ],
)
def test_few_shot_is_tried_with_few_examples(
    tmp_path: Path, parent: Bundle, num: int, changes: dict[str, Any], expected: bool
) -> None:
    data = data_of(tmp_path, reviews(num), parent)
    assert may_be_few(data, settings_of(tmp_path / "mine.jsonl", **changes)) is expected


def test_bare_words_are_asked_by_naive_bayes() -> None:
    """Each label has a word of its own in all of its texts but one, which has the other's."""
    ids = np.array([[7, 10 + code, 99] for code in (0, 1) * 10], np.int32)
    ids[0, 1] = 11
    tokens = Tokens(ids.ravel(), np.full(20, 3, np.int32), np.zeros(20, np.bool_))
    examples = Examples(np.zeros((20, 1), np.float32), np.array([0, 1] * 10), np.ones(20, np.float32), 2)
    assert word_accuracy(tokens, examples, 0) == pytest.approx(0.95)


@pytest.mark.parametrize(("knows", "method"), [(True, "auto"), (False, "auto"), (False, "fewshot")])
def test_vectors_that_tell_less_than_words_are_not_taken(
    tmp_path: Path, parent: Bundle, monkeypatch: pytest.MonkeyPatch, knows: bool, method: str
) -> None:
    data = data_of(tmp_path, reviews(30), parent)
    own = data.labels["label"]
    rows = np.flatnonzero(np.isin(data.parts, (TRAIN, TUNE)) & own.known)
    vectors = np.zeros((len(rows), 32), np.float32)
    vectors[:, 0] = own.truth[rows] if knows else 0
    monkeypatch.setattr(learn_module, "features", lambda *_: vectors)
    tuner = build_tuner(parent, data.heads, 0.0, is_frozen=True)
    settings = settings_of(tmp_path / "mine.jsonl", method=method)
    learnt = learn_from_few(tuner, prepare(data, parent.tokeniser.encode(data.texts), {}), settings)
    assert (learnt is not None) is (knows or method == "fewshot")


def test_few_shot_is_for_one_new_head(tmp_path: Path, parent: Bundle) -> None:
    rows = [{"text": f"x {i}", "label": "p|q" if i % 2 else "p"} for i in range(20)]
    data = data_of(tmp_path, rows, parent)
    with pytest.raises(FinetuneError, match="method fewshot learns one new head of one label a text"):
        may_be_few(data, settings_of(tmp_path / "mine.jsonl", method="fewshot"))


# --- calibration, canaries, membership


def test_temperature_undoes_a_known_overstatement() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    drawn = (probs.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)

    def loss_at(temperature: float) -> float:
        return float(-np.log(probabilities(logits * 2.5, temperature)[np.arange(20_000), drawn]).mean())

    assert likeliest_temperature(loss_at) == pytest.approx(2.5, rel=0.05)


def test_sets_count_the_same_and_small_ones_less() -> None:
    known = np.array([True] * 140 + [False] * 10)
    weights = set_weights(np.array([0] * 100 + [1] * 50), known)
    assert weights[:100].sum() == pytest.approx(1)
    assert weights[100:].sum() == pytest.approx(1)
    assert not weights[140:].any()
    assert set_weights(np.zeros(3, np.int32), np.ones(3, np.bool_)).sum() == pytest.approx(0.1)


@pytest.mark.parametrize("num_easy", [400, 8_000])
def test_a_large_set_does_not_set_the_temperature_of_a_small_one(num_easy: int) -> None:
    """Answers to the first set are as sure as they should be, those to the second three times too sure."""
    rng, num_texts = np.random.default_rng(0), num_easy + 400
    logits = rng.normal(size=(num_texts, 2)).astype(np.float32)
    true_probs = probabilities(logits)
    codes = (true_probs[:, 0] < rng.random(num_texts)).astype(np.int64)
    logits[num_easy:] *= 3
    sets = np.repeat(np.array([0, 1], np.int32), [num_easy, 400])
    ones, yes = np.ones(num_texts, np.int32), np.ones(num_texts, np.bool_)
    tokens = Tokens(ones, ones, ~yes)
    exam = Exam(corpus_of(tokens, ("easy", "hard"), sets), tokens, {"label": Labels(yes, codes)})
    (found,) = calibrate([HeadSpec(name="label", kind="single", labels=("a", "b"))], [logits], exam)
    assert 1.5 < found.spec.temperature < 2.5


@pytest.mark.parametrize("answer", [0, 1])
def test_a_set_of_one_answer_does_not_set_the_temperature(answer: int) -> None:
    """However sure the model is there: a set that never says otherwise can't tell how often it would be wrong."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4_000, 2)).astype(np.float32)
    codes = (probabilities(logits)[:, 0] < rng.random(4_000)).astype(np.int64)
    logits *= 2
    constant = np.full((400, 2), -1, np.float32)
    constant[:, answer] = 1
    logits, codes = np.concatenate([logits, constant]), np.concatenate([codes, np.full(400, answer)])
    sets = np.repeat(np.array([0, 1], np.int32), [4_000, 400])
    ones, yes = np.ones(4_400, np.int32), np.ones(4_400, np.bool_)
    tokens = Tokens(ones, ones, ~yes)
    exam = Exam(corpus_of(tokens, ("both", "one"), sets), tokens, {"label": Labels(yes, codes)})
    (found,) = calibrate([HeadSpec(name="label", kind="single", labels=("a", "b"))], [logits], exam)
    assert found.spec.temperature == pytest.approx(2, rel=0.1)


def test_labels_that_a_set_leaves_out_are_not_in_question() -> None:
    logits = np.arange(12, dtype=np.float32).reshape(4, 3)
    asked = in_question(logits, np.array([0, 2, 1, 1]), np.array([5, 5, 7, 7]))
    assert np.isneginf(asked).tolist() == [[False, True, False]] * 2 + [[True, False, True]] * 2
    assert (asked[np.isfinite(asked)] == logits[np.isfinite(asked)]).all()
    assert np.isfinite(logits).all()


def test_sets_of_one_label_each_ask_about_all() -> None:
    logits = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert (in_question(logits, np.array([0, 0, 1, 1]), np.array([5, 5, 7, 7])) == logits).all()


def test_abstaining_halves_the_errors() -> None:
    sure = np.array([0.9] * 50 + [0.6] * 50)
    probs = np.stack([sure, 1 - sure], axis=1)
    codes = np.array([0] * 50 + [0, 1] * 25)
    found = suggest_abstention(probs, codes)
    assert found is not None
    assert (found.probability, found.answered, found.accuracy, found.accuracy_of_all) == (0.61, 0.5, 1.0, 0.75)


def test_no_probability_helps_where_all_sound_alike() -> None:
    probs = np.full((100, 2), [0.7, 0.3])
    assert suggest_abstention(probs, np.array([0, 1] * 50)) is None


class Rememberer(torch.nn.Module):
    """Gives the labels of the texts it was shown, and even odds to all others."""

    def __init__(self, known: dict[tuple[int, ...], int], spec: HeadSpec) -> None:
        super().__init__()
        self.known, self.specs = known, (spec,)

    def forward(self, batch: Any) -> list[torch.Tensor]:
        texts = torch.tensor_split(batch.input_ids, batch.bounds[1:-1].long())
        logits = torch.zeros(len(texts), len(self.specs[0].labels))
        for row, text in enumerate(texts):
            if (code := self.known.get(tuple(text.tolist()))) is not None:
                logits[row, code] = 9.0
        return [logits]


@pytest.mark.parametrize(("remembers", "bits"), [(True, 10.0), (False, 1.0)])
def test_exposure_tells_a_model_that_remembers(tmp_path: Path, parent: Bundle, remembers: bool, bits: float) -> None:
    data = plant(data_of(tmp_path, reviews(30), parent), 4, seed=0)
    assert data.ids[-4:] == [f"canary {i}" for i in range(4)]
    assert (data.parts[-4:] == TRAIN).all()
    tokeniser: Tokeniser = parent.tokeniser
    tokens = tokeniser.encode(data.texts[-4:])
    texts = np.split(tokens.ids, np.cumsum(tokens.lengths)[:-1])
    known = {tuple(t.tolist()): int(c) for t, c in zip(texts, data.labels["label"].truth[-4:], strict=True)}
    model = Rememberer(known if remembers else {}, data.heads[0].spec)
    assert exposure(data, 4, model, tokeniser, seed=0).bits == pytest.approx((bits,) * 4, abs=0.01)


def test_membership_tells_a_model_that_remembers(tmp_path: Path, parent: Bundle) -> None:
    data = data_of(tmp_path, reviews(400), parent, held_out=0.4)
    rows = data.rows(TRAIN)[::2]
    tokens = parent.tokeniser.encode([data.texts[row] for row in rows])
    texts = np.split(tokens.ids, np.cumsum(tokens.lengths)[:-1])
    known = {tuple(t.tolist()): int(c) for t, c in zip(texts, data.labels["label"].truth[rows], strict=True)}
    spec = data.heads[0].spec
    (half,) = membership(data, Rememberer(known, spec), parent.tokeniser, seed=0)
    assert (half.head, half.num_texts) == ("label", len(data.rows(DEV)))
    assert half.found == pytest.approx(0.5, abs=0.1)
    assert half.pairs_right == pytest.approx(0.5 + half.found / 2)
    assert half.low < half.pairs_right < half.high
    (none,) = membership(data, Rememberer({}, spec), parent.tokeniser, seed=0)
    assert (none.pairs_right, none.found) == (0.5, 0.0)


def test_membership_is_not_asked_of_few_texts(tmp_path: Path, parent: Bundle) -> None:
    data = data_of(tmp_path, reviews(100), parent)
    assert membership(data, Rememberer({}, data.heads[0].spec), parent.tokeniser, seed=0) == []


def test_an_attack_on_answers_that_differ_by_a_known_shift() -> None:
    """Normal log odds, one apart: right for Phi(1 / sqrt 2) of pairs, and 1 - Phi(2.326 - 1) found."""
    rng = np.random.default_rng(0)
    told = attack("label", *(rng.normal(mean, 1, 20_000).astype(np.float32) for mean in (1, 0)))
    assert told.pairs_right == pytest.approx(0.760, abs=0.01)
    assert told.low < 0.760 < told.high < told.low + 0.02
    assert told.found == pytest.approx(0.092, abs=0.02)


def test_label_counts_are_of_one_part(tmp_path: Path, parent: Bundle) -> None:
    data = data_of(tmp_path, reviews(100), parent)
    counts = [label_counts(data, data.heads[0], part) for part in (TRAIN, TUNE, DEV)]
    assert {label: sum(own[label] for own in counts) for label in "bg"} == {"b": 50, "g": 50}
