"""Labels that say less than the whole answer, `4|5` or left open: through reading, loss, figures and floor."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.config import parse_config
from jobs.evaluate.answers import Answers
from jobs.evaluate.baseline import learnable_labels
from jobs.evaluate.kinds import KINDS
from jobs.evaluate.labels import OPEN, named_labels, read_codes, read_masks
from jobs.evaluate.rows import EvaluateError
from jobs.evaluate.settings import LabelSettings
from jobs.finetune.data import read_data
from jobs.finetune.heads import LearntHead
from jobs.finetune.settings import FinetuneSettings, HeadSettings
from jobs.finetune.targets import Target
from models.bundle import Bundle, load_bundle
from models.heads import HeadSpec
from tests.tiny import tiny_bundle

STARS = HeadSpec(name="grades", kind="ordinal", labels=("1", "2", "3"))
TOPICS = HeadSpec(name="topics", kind="multi", labels=("price", "delivery"))
ONE = torch.ones(1)


def test_cells_that_allow_several_answers() -> None:
    settings = LabelSettings(column="stars", any_of=True, values={"bad": "1", "?": None})
    cells = ["1 | 2", 3, "3", "bad", None, "", "?"]
    labelled = read_codes(cells, ("1", "2", "3"), settings, "here")
    assert labelled.known.tolist() == [False, True, True, True, False, False, False]
    assert labelled.truth.tolist() == [2, 2, 0]
    assert labelled.allowed is not None
    assert labelled.allowed.astype(int).tolist() == [
        [1, 1, 0],
        [0, 0, 1],
        [0, 0, 1],
        [1, 0, 0],
        [0, 0, 0],
        [0, 0, 0],
        [0, 0, 0],
    ]


def test_one_of_several_answers_that_is_no_label_is_an_error() -> None:
    with pytest.raises(EvaluateError, match=r"here: no such label: '6' \(1 times\)"):
        read_codes(["1|6"], ("1", "2"), LabelSettings(column="stars", any_of=True), "here")
    with pytest.raises(EvaluateError, match=r"no such label: '1\|2'"):
        read_codes(["1|2"], ("1", "2"), LabelSettings(column="stars"), "here")


def test_cells_that_leave_labels_open() -> None:
    settings = LabelSettings(column="topics", open_mark="?")
    cells = [["price", "?delivery"], ["?price"], ["?price", "price"], [], None, '["?delivery"]']
    labelled = read_masks(cells, ("price", "delivery"), settings, "here")
    assert labelled.known.tolist() == [True, True, True, True, False, True]
    assert labelled.truth.tolist() == [[1, OPEN], [OPEN, 0], [1, 0], [0, 0], [0, OPEN]]
    strange = [["price", "?colour"]]  # a head may lack a label that training never met
    assert read_masks(strange, ("price", "delivery"), settings, "here").truth.tolist() == [[1, 0]]
    with pytest.raises(EvaluateError, match=r"no such label: 'colour'"):
        read_masks([["colour"]], ("price", "delivery"), settings, "here")
    with pytest.raises(EvaluateError, match=r"no such label: '\?price'"):
        read_masks([["?price"]], ("price",), LabelSettings(column="topics"), "here")


def test_names_of_labels_can_be_read_off() -> None:
    assert named_labels(["4|5", 3, None], LabelSettings(column="x", any_of=True)) == ["4", "5", "3"]
    assert named_labels([["?a", "b"], None], LabelSettings(column="x", open_mark="?")) == [["a", "b"], None]
    assert named_labels(["4|5"], LabelSettings(column="x")) == ["4|5"]


def loss(target: Target, outputs: list[list[float]]) -> float:
    rows = np.arange(len(outputs))
    return float(target.loss(torch.tensor(outputs), rows, np.ones(len(rows), np.int32), torch.ones(len(rows))))


def target_of(spec: HeadSpec, known: list[bool], values: torch.Tensor, weights: list[float]) -> Target:
    head = LearntHead(spec, HeadSettings(), "", False)
    return Target(head, np.array(known), values, None, torch.tensor(weights))


def test_the_loss_of_several_answers_is_that_of_their_summed_probability() -> None:
    allowed = torch.tensor([[True, True, False], [False, False, True], [False, False, False]])
    target = target_of(STARS, [True, True, False], allowed, [1.0, 1.0, 1.0])
    logits = [[math.log(0.2), math.log(0.3), math.log(0.5)]] * 3
    assert loss(target, logits) == pytest.approx((-math.log(0.5) - math.log(0.5)) / 2, abs=1e-6)
    weighted = target_of(STARS, [True, True, False], allowed, [1.0, 2.0, 3.0])
    logits[1] = [math.log(0.1), math.log(0.1), math.log(0.8)]
    wanted = (1.5 * -math.log(0.5) + 3 * -math.log(0.8)) / 4.5  # several allowed: the mean of their weights
    assert loss(weighted, logits) == pytest.approx(wanted, abs=1e-6)


def test_allowing_one_answer_is_the_plain_loss() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).tolist()
    codes = torch.tensor([0, 2, 1, 1, 0])
    known, weights = [True, True, True, False, True], [0.5, 1.0, 2.0]
    plain = target_of(STARS, known, codes, weights)
    allowed = target_of(STARS, known, torch.eye(3, dtype=torch.bool)[codes], weights)
    assert loss(allowed, logits) == pytest.approx(loss(plain, logits), abs=1e-6)


def test_what_is_open_has_no_loss() -> None:
    values = torch.tensor([[1.0, OPEN], [0.0, 1.0]])
    target = target_of(TOPICS, [True, True], values, [1.0, 1.0])
    first, second = math.log1p(math.exp(-1.0)), math.log1p(math.exp(2.0)) + math.log1p(math.exp(-0.5))
    assert loss(target, [[1.0, 99.0], [2.0, 0.5]]) == pytest.approx((first + second) / 2, abs=1e-6)


def test_an_answer_where_the_truth_is_open_counts_neither_for_nor_against() -> None:
    truth = np.array([[1, OPEN], [0, OPEN], [0, 1], [1, 0]], np.int8)
    answers = Answers(np.array([[True, True], [True, False], [False, True], [False, False]]))
    macro, micro = (metric.value() for metric in KINDS["multi"].metrics(TOPICS, truth, answers))
    assert macro == pytest.approx((0.5 + 1.0) / 2)
    assert micro == pytest.approx(2 * 2 / (3 + 3))


def test_the_floor_learns_a_label_from_texts_that_have_it_and_texts_that_have_it_not() -> None:
    truth = np.array([[1, OPEN, 1], [0, 1, OPEN], [OPEN, OPEN, 1]], np.int8)
    assert learnable_labels(truth).tolist() == [0]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(tiny_bundle(tmp_path_factory.mktemp("parents") / "tiny").folder)


def settings_for(path: Path, **more: Any) -> FinetuneSettings:
    labels = {
        "grades": {"column": "grades", "any_of": True},
        "topics": {"column": "topics", "open_mark": "?", "separator": "|"},
    }
    sets = {
        "mine": {"input": str(path), "labels": labels},
        "plain": {"input": str(path), "labels": {"grades": "exact"}},
    }
    return parse_config({"output": "unused", "sets": sets, **more}, FinetuneSettings, "test")


def test_a_table_with_open_labels(tmp_path: Path, parent: Bundle) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(
        "text,grades,topics,exact\na,1|2,price|?delivery,1\nb,3,?price,3\nc,2,delivery,2\nd,,,1\n", encoding="utf-8"
    )
    data = read_data(settings_for(path), parent)
    grades, topics = data.labels["grades"], data.labels["topics"]
    assert [(head.spec.kind, head.spec.labels) for head in data.heads] == [
        ("ordinal", ("1", "2", "3")),
        ("multi", ("delivery", "price")),
    ]
    assert grades.known.tolist() == [False, True, True, False, True, True, True, True]
    assert grades.teaches.tolist() == [True, True, True, False, True, True, True, True]
    assert grades.allowed is not None
    assert grades.allowed[:5].astype(int).tolist() == [[1, 1, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert topics.truth[:3].tolist() == [[OPEN, 1], [0, OPEN], [1, 0]]
    one_hot = path.read_text(encoding="utf-8").replace("1|2", "1|3")
    path.write_text(one_hot, encoding="utf-8")
    assert read_data(settings_for(path), parent).digest() != data.digest()
