"""Metrics by hand and against scikit-learn; the bootstrap's intervals; labels out of cells."""

import numpy as np
import pytest

from jobs.evaluate.answers import Answers
from jobs.evaluate.bootstrap import difference, resample
from jobs.evaluate.kinds import KINDS, agreement, is_two_way, without_neutral
from jobs.evaluate.labels import read_codes, read_masks, read_spans
from jobs.evaluate.metrics import accuracy, calibration_error, macro_f1, mean_error, micro_f1, one_hot, span_f1
from jobs.evaluate.rows import EvaluateError
from jobs.evaluate.settings import LabelSettings
from models.heads import HeadSpec

SENTIMENT = HeadSpec(name="sentiment", labels=("negative", "neutral", "positive"))
STARS = HeadSpec(name="stars", kind="ordinal", labels=("1", "2", "3", "4", "5"))


def single(probs: list[list[float]]) -> Answers:
    probs_nc = np.array(probs)
    return Answers(probs_nc.argmax(axis=1), probs_nc)


def objects(values: list[set]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = [frozenset(value) for value in values]
    return array


def values(head: HeadSpec, truth: np.ndarray, answers: Answers) -> dict[str, float]:
    return {metric.name: metric.value() for metric in KINDS[head.kind].metrics(head, truth, answers)}


def test_accuracy() -> None:
    assert accuracy(np.array([True, True, False, True])).value() == 0.75
    assert accuracy(np.array([True, True, False, True]), np.array([True, False, True, False])).value() == 0.5
    assert np.isnan(accuracy(np.array([True]), np.array([False])).value())


def test_macro_f1_by_hand() -> None:
    truth, answer = one_hot(np.array([0, 0, 1, 1]), 3), one_hot(np.array([0, 1, 1, 1]), 3)
    assert macro_f1(truth, answer).value() == pytest.approx((2 / 3 + 4 / 5) / 2)  # the third class never occurs


def test_micro_f1_by_hand() -> None:
    assert micro_f1(np.array([1.0, 0]), np.array([2.0, 1]), np.array([1.0, 2])).value() == pytest.approx(2 / 6)


def test_spans_must_be_exact() -> None:
    truth = objects([{(0, 2, "price"), (3, 5, "staff")}, {(1, 4, "food")}, set()])
    answer = objects([{(0, 2, "price"), (3, 5, "food")}, {(1, 3, "food")}, {(0, 1, "food")}])
    assert span_f1(truth, answer, with_label=True).value() == pytest.approx(2 * 1 / (3 + 4))
    assert span_f1(truth, answer, with_label=False).value() == pytest.approx(2 * 2 / (3 + 4))


def test_calibration_by_hand() -> None:
    sure, is_right = np.array([0.95, 0.99, 0.61, 1.0]), np.array([True, False, True, True])
    expected = (
        abs(0.95 - 1 + 0.99 - 0 + 1.0 - 1) + abs(0.61 - 1)
    ) / 4  # bins of a fifteenth: 14/15 to 1, 9/15 to 10/15
    assert calibration_error(sure, is_right).value() == pytest.approx(expected)


def test_mean_error_and_grades() -> None:
    answers = single([[0, 0, 0, 0.5, 0.5], [1, 0, 0, 0, 0]])
    found = values(STARS, np.array([4, 1]), answers)
    assert found["mean_error"] == pytest.approx((0.5 + 1) / 2)
    assert found["accuracy"] == 0.0  # the likelier of equals is the first
    assert mean_error(np.array([0.5, 1.0]), 4).span == 4


def test_multi() -> None:
    head = HeadSpec(name="topics", kind="multi", labels=("price", "staff"))
    truth = np.array([[True, False], [True, True], [False, False]])
    answers = Answers(np.array([[True, True], [True, False], [False, False]]), np.zeros((3, 2)))
    assert values(head, truth, answers) == {"macro_f1": 0.5, "micro_f1": pytest.approx(2 * 2 / 6)}


def test_neutral_is_left_out_on_both_sides() -> None:
    """On a two-way set an answer of neutral becomes the likelier pole; on a three-way set it stays."""
    answers = single([[0.3, 0.6, 0.1], [0.1, 0.7, 0.2], [0.1, 0.2, 0.7], [0.8, 0.1, 0.1]])
    polar, mixed = np.array([0, 2, 0, 0]), np.array([1, 2, 0, 0])
    assert is_two_way(SENTIMENT, polar)
    assert not is_two_way(SENTIMENT, mixed)
    fitted = without_neutral(SENTIMENT, answers)
    assert fitted.labels.tolist() == [0, 2, 2, 0]
    assert fitted.probs_nc[0] == pytest.approx([0.75, 0, 0.25])
    found = values(SENTIMENT, mixed, answers)
    assert (found["accuracy"], found["two_way_accuracy"]) == (0.5, pytest.approx(2 / 3))
    assert "two_way_accuracy" not in values(SENTIMENT, polar, fitted)


@pytest.mark.slow
def test_as_scikit_learn_measures() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    truth, answer = rng.integers(0, 5, 400), rng.integers(0, 5, 400)
    ours = macro_f1(one_hot(truth, 5), one_hot(answer, 5)).value()
    assert ours == pytest.approx(sklearn.f1_score(truth, answer, average="macro"))
    told, found = rng.random((300, 6)) < 0.3, rng.random((300, 6)) < 0.3
    head = HeadSpec(name="topics", kind="multi", labels=tuple("abcdef"))
    assert values(head, told, Answers(found, None)) == {
        "macro_f1": pytest.approx(sklearn.f1_score(told, found, average="macro")),
        "micro_f1": pytest.approx(sklearn.f1_score(told, found, average="micro")),
    }


def test_interval_of_a_share_is_the_normal_one() -> None:
    is_right = np.arange(1000) < 800
    (found,) = resample([accuracy(is_right)], seed=1)
    half = 1.96 * np.sqrt(0.8 * 0.2 / 1000)
    assert found.figure.value == 0.8
    assert found.figure.low == pytest.approx(0.8 - half, abs=0.003)
    assert found.figure.high == pytest.approx(0.8 + half, abs=0.003)
    assert resample([accuracy(is_right)], seed=1)[0].figure == found.figure
    assert resample([accuracy(is_right)], seed=2)[0].figure != found.figure


def test_difference_is_paired() -> None:
    """Two systems that err on the same texts but for five differ for certain; unpaired intervals would overlap."""
    rng = np.random.default_rng(0)
    one = rng.random(1000) < 0.7
    other = one.copy()
    other[np.flatnonzero(one)[:10]] = False
    left, right = resample([accuracy(one), accuracy(other)], seed=0)
    ahead = difference(left, right)
    assert ahead.value == pytest.approx(0.01)
    assert 0 < ahead.low < 0.01 < ahead.high < 0.02
    assert left.figure.low < right.figure.high
    apart = difference(resample([accuracy(one)], seed=0)[0], resample([accuracy(other)], seed=0)[0])
    assert apart == ahead


def test_same_system_never_differs() -> None:
    one = resample([accuracy(np.arange(50) % 3 > 0)], seed=0)[0]
    assert difference(one, one).low == difference(one, one).high == 0


def test_calibration_interval_holds_its_value() -> None:
    """A perfectly calibrated model's error is all noise, which plain percentiles would lie above."""
    rng = np.random.default_rng(5)
    sure = rng.uniform(0.5, 1, 400)
    found = resample([calibration_error(sure, rng.random(400) < sure)], seed=0)[0].figure
    assert 0 <= found.low <= found.value <= found.high


def test_agreement() -> None:
    assert agreement(single([[1, 0], [0, 1]]), single([[0.6, 0.4], [0.9, 0.1]])).tolist() == [True, False]
    masks = [Answers(np.array(rows)) for rows in ([[True, False], [True, True]], [[True, False], [True, False]])]
    assert agreement(*masks).tolist() == [True, False]
    spans = [Answers(objects([{(0, 1, "a")}, set()])), Answers(objects([{(0, 1, "a")}, {(2, 3, "a")}]))]
    assert agreement(*spans).tolist() == [True, False]


def test_codes() -> None:
    settings = LabelSettings(column="label", values={"good": "positive", "?": None})
    read = read_codes(["good", None, "negative", "?", ""], SENTIMENT.labels, settings, "here")
    assert read.known.tolist() == [True, False, True, False, False]
    assert read.truth.tolist() == [2, 0]


def test_numbers_and_truth_values_are_labels_too() -> None:
    """Whatever type Parquet, JSON or YAML gave them."""
    settings = LabelSettings(column="label", values={1: "negative", 0: "positive", "true": "neutral"})
    assert read_codes([1, 1.0, "1", 0, True], SENTIMENT.labels, settings, "").truth.tolist() == [0, 0, 0, 2, 1]
    assert LabelSettings(column="c", values={True: False}).values == {"true": "false"}
    assert read_codes([5, "5", 5.0], STARS.labels, LabelSettings(column="c"), "").truth.tolist() == [4, 4, 4]


def test_unknown_label_names_value_and_what_is_allowed() -> None:
    with pytest.raises(EvaluateError) as error:
        read_codes(["posittive", "posittive", "bad"], SENTIMENT.labels, LabelSettings(column="c"), "sets.mine")
    for part in ("sets.mine", "'posittive' (2 times)", "'bad' (1 times)", "did you mean 'positive'", "'neutral'"):
        assert part in str(error.value)


def test_error_never_shows_a_text() -> None:
    text = "I am Jane Roe and my parcel never came, call me on 0171 2345678"
    with pytest.raises(EvaluateError, match=f"a value of {len(text)} characters") as error:
        read_codes([text], SENTIMENT.labels, LabelSettings(column="text"), "")
    assert "Jane" not in str(error.value)
    with pytest.raises(EvaluateError, match="must hold a list") as error:
        read_masks([text], ("a",), LabelSettings(column="text"), "")
    assert "Jane" not in str(error.value)


def test_column_of_short_texts_is_not_shown_either() -> None:
    with pytest.raises(EvaluateError, match="60 different values that are no labels") as error:
        read_codes([f"Jane {i}" for i in range(60)], SENTIMENT.labels, LabelSettings(column="text"), "")
    assert "Jane" not in str(error.value)


def test_masks() -> None:
    read = read_masks(['["a"]', [], None, ["b", "a"]], ("a", "b"), LabelSettings(column="c"), "")
    assert read.known.tolist() == [True, True, False, True]
    assert read.truth.tolist() == [[True, False], [False, False], [True, True]]
    parted = read_masks(["a; b", ""], ("a", "b"), LabelSettings(column="c", separator=";"), "")
    assert parted.truth.tolist() == [[True, True], [False, False]]


def test_spans() -> None:
    cells = ['[[0, 2, "x"]]', [{"start": 1, "end": 3, "label": "y"}], None, "[]"]
    read = read_spans(cells, ("x", "z"), LabelSettings(column="c", values={"y": "z"}), "")
    assert read.known.tolist() == [True, True, False, True]
    assert read.truth.tolist() == [{(0, 2, "x")}, {(1, 3, "z")}, frozenset()]


@pytest.mark.parametrize("span", [[2, 2, "x"], [-1, 2, "x"], ["0", 2, "x"], [0, 2], {"start": 0, "end": 2}, 7])
def test_bad_spans(span: object) -> None:
    with pytest.raises(EvaluateError, match=r"must be \[start, end, label\]"):
        read_spans([[span]], ("x",), LabelSettings(column="c"), "")
