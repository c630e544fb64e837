"""Results on paper: nothing from data becomes markup, what isn't a number isn't written as one, thresholds judge."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.config import parse_config
from jobs.evaluate.answers import Answers, Pass
from jobs.evaluate.compare import aligned
from jobs.evaluate.labels import Labelled
from jobs.evaluate.markdown import markdown_page
from jobs.evaluate.measure import measure, report
from jobs.evaluate.metrics import accuracy
from jobs.evaluate.page import html_page
from jobs.evaluate.precision import Tally
from jobs.evaluate.results import Evaluation, HeadResult, SetResult, Speed
from jobs.evaluate.rows import EvaluateError
from jobs.evaluate.sets import HeadLabels
from jobs.evaluate.settings import EvaluateSettings
from jobs.evaluate.summary import summary
from jobs.evaluate.thresholds import check_names, judge_thresholds
from jobs.evaluate.write import write_results
from models.gates import judge
from models.heads import HeadSpec
from tests.tiny import tiny_bundle

HOSTILE = "<script>alert('x')</script>|**\n# x & \"y\""
HEAD = HeadSpec(name="mood", labels=(HOSTILE, "calm"))


def answers(labels: list[int], sure: float = 0.9) -> Answers:
    probs_nc = np.full((len(labels), 2), 1 - sure)
    probs_nc[np.arange(len(labels)), labels] = sure
    return Answers(np.array(labels, np.int64), probs_nc)


def head_result(truth: list[int], ours: list[int], theirs: list[int]) -> HeadResult:
    known = np.ones(len(truth), np.bool_)
    labelled = Labelled(known, np.array(truth, np.int64))
    labels = HeadLabels(HEAD, labelled, Labelled(known[:0], labelled.truth[:0]), ((HOSTILE, "row 2"),))
    half = np.arange(len(truth)) < len(truth) // 2
    parts = [(HOSTILE, HOSTILE, half), ("language", "en", ~half)]
    measured = measure(labels, {"ours@1 fp32": answers(ours), HOSTILE: answers(theirs)})
    return report(measured, parts, [HOSTILE], seed=0)


def evaluation(head: HeadResult, **changes: Any) -> Evaluation:
    one = SetResult("mine", HOSTILE, 10, {"bad_csv": 2}, 8, 8, 1, 1, (head,))
    plain: dict[str, Any] = {
        "bundle": "ours@1",
        "compared_with": None,
        "measured_at": "2026-11-22T00:00:00+00:00",
        "code_revision": "abc",
        "machine": HOSTILE,
        "seed": 0,
        "sets": (one,),
        "speeds": (Speed("ours@1 fp32", 8, 2.0, 4.0, 1.5),),
        "thresholds": tuple(judge_thresholds({"mine": {"mood": {"accuracy": 0.7}}}, (one,))),
        "precisions": {"int8": judge({"mood": 1.0}, {}, 8, measured_on="today", machine=HOSTILE)},
    }
    return Evaluation(**{**plain, **changes})


@pytest.fixture(scope="module")
def made() -> Evaluation:
    return evaluation(head_result([0, 0, 0, 1, 1, 1, 0, 1], [0, 0, 1, 1, 1, 1, 0, 0], [1] * 8))


class Elements(HTMLParser):
    """What elements a page opens, and whether it closes them in order."""

    VOID = ("meta", "line", "rect", "circle", "polyline")

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.seen: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.links += [str(value) for name, value in attrs if name in ("href", "src")]
        if tag not in self.VOID:
            self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.opened.pop() == tag


def test_html_is_whole_and_stands_alone(made: Evaluation) -> None:
    page = html_page(made)
    elements = Elements()
    elements.feed(page)
    assert elements.opened == []
    assert "script" not in elements.seen
    assert {"svg", "circle", "table"} <= elements.seen
    assert elements.links == ["#set-mine"]
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page
    assert "http://" not in page
    assert "https://" not in page


def test_markdown_escapes(made: Evaluation) -> None:
    page = markdown_page(made)
    assert "<script" not in page
    assert r"&lt;script&gt;alert('x')&lt;/script&gt;\|\*\* \# x &amp;" in page
    widths = [line.replace(r"\|", "").count("|") for line in page.splitlines() if line.startswith("|")]
    assert 0 not in widths
    assert not [line for line in page.splitlines() if line.startswith("# x")]


def test_figures_on_the_pages(made: Evaluation) -> None:
    for page in (html_page(made), markdown_page(made), summary(made)):
        assert "75.0 (" in page
        assert "+25.0 (" in page
        assert "1.50" in page
    (head,) = made.sets[0].heads
    assert head.confusion == ((3, 1), (1, 3))
    assert [(one.num_texts, one.sure, one.right) for one in head.bins] == [(8, pytest.approx(0.9), 0.75)]
    assert head.systems[1].gains["accuracy"].value == 0.25
    assert [part.figures["ours@1 fp32"].value for part in head.slices] == [0.75, 0.75]


def test_json_is_strict_and_holds_the_verdict(made: Evaluation) -> None:
    content = json.loads(made.to_json())
    assert content["passed"] is True
    assert content["precisions"]["int8"]["passed"] is True
    assert content["sets"][0]["heads"][0]["contradictory"] == [[HOSTILE, "row 2"]]


def test_nothing_labelled_is_a_dash_not_a_crash() -> None:
    made = evaluation(head_result([], [], []))
    assert json.loads(made.to_json())["thresholds"][0]["found"] is None
    assert made.passed is False
    assert "0 labelled texts" in html_page(made)
    assert "0 labelled texts" in markdown_page(made)


@pytest.mark.parametrize(
    ("metric", "wanted", "passed"),
    [
        ("accuracy", 0.75, True),
        ("accuracy", 0.76, False),
        ("calibration_error", 0.15, True),
        ("calibration_error", 0.1, False),
    ],
)
def test_thresholds(made: Evaluation, metric: str, wanted: float, passed: bool) -> None:
    (one,) = judge_thresholds({"mine": {"mood": {metric: wanted + 1e-9 * (metric != "accuracy")}}}, made.sets)
    assert one.passed is passed


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ({"mien": {}}, "did you mean 'mine'"),
        ({"mine": {"stars": {}}}, "gate.mine: nothing called 'stars'"),
        ({"mine": {"mood": {"mean_error": 1.0}}}, "gate.mine.mood: nothing called 'mean_error'"),
    ],
)
def test_thresholds_on_what_is_not_measured(gate: dict[str, Any], message: str) -> None:
    sets = {"mine": {"input": "x.csv", "labels": {"mood": "label"}}}
    settings = parse_config({"bundle": "b", "output": "o", "sets": sets, "gate": gate}, EvaluateSettings, "test")
    with pytest.raises(EvaluateError) as error:
        check_names(settings, {"mood": HEAD})
    assert message in str(error.value)


def test_another_bundles_labels_in_our_order() -> None:
    ours = HeadSpec(name="mood", labels=("a", "b", "c"))
    theirs = HeadSpec(name="mood", labels=("c", "a"))
    found = aligned(ours, [theirs], Pass({"mood": answers([0, 1], 0.75)}, 1.0))
    assert isinstance(found, Answers)
    assert found.labels.tolist() == [2, 0]
    assert found.probs_nc is not None
    assert found.probs_nc.tolist() == [[0.25, 0, 0.75], [0.75, 0, 0.25]]
    assert "'d'" in str(aligned(ours, [HeadSpec(name="mood", labels=("a", "d"))], Pass({}, 1.0)))
    assert "no head 'mood'" in str(aligned(ours, [HeadSpec(name="other", labels=("a", "b"))], Pass({}, 1.0)))
    several = HeadSpec(name="mood", kind="multi", labels=("a", "b"))
    assert "of kind single" in str(aligned(ours, [several], Pass({}, 1.0)))


def tallied(parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> Any:
    """The record of fp32 right on some texts of each set and another precision right on others."""
    tally = Tally("int8")
    for name, (reference, other) in parts.items():
        passes = [Pass({"mood": answers(list(map(int, right)))}, 1.0) for right in (reference, other)]
        tally.add_answers(*passes)
        tally.add_metrics(name, "mood", [accuracy(reference)], [accuracy(other)])
    return tally.record(measured_on="today", machine="here")


def right(num: int, num_wrong: int) -> np.ndarray:
    return np.arange(num) >= num_wrong


def test_precision_drop_is_taken_over_all_sets_and_each() -> None:
    record = tallied({"one": (right(1000, 0), right(1000, 2)), "large": (right(9000, 0), right(9000, 0))})
    assert record.agreement == {"mood": 0.9998}
    assert (record.passed, record.worst.metric) == (True, "one.mood.accuracy")
    assert record.worst.points == pytest.approx(0.2)
    assert record.num_texts == 10_000


def test_precision_that_ruins_one_set_fails() -> None:
    record = tallied({"small": (right(1000, 0), right(1000, 30)), "large": (right(99_000, 0), right(99_000, 0))})
    assert record.least_agreement == 0.9997
    assert record.worst.metric == "small.mood.accuracy"
    assert not record.passed


@pytest.mark.parametrize("order", [("none", "some"), ("some", "none")])
def test_a_set_of_which_no_text_counts_says_nothing(order: tuple[str, str]) -> None:
    tally = Tally("int8")
    for name in order:
        tally.add_answers(Pass({"mood": answers([0] * 10)}, 1.0), Pass({"mood": answers([0] * 10)}, 1.0))
        counts = np.full(10, name == "some")
        tally.add_metrics(name, "mood", [accuracy(right(10, 0), counts)], [accuracy(right(10, 1), counts)])
    record = tally.record(measured_on="today", machine="here")
    assert record.drops["mood"].points == pytest.approx(10)
    assert not record.passed


def test_precision_agrees_but_loses() -> None:
    record = tallied({"one": (right(2000, 0), right(2000, 8))})
    assert (record.least_agreement, record.worst.metric) == (0.996, "mood.accuracy")
    assert record.worst.points == pytest.approx(0.4)
    assert not record.passed


def test_a_few_hundred_texts_are_too_few_for_one_answer() -> None:
    record = tallied({"one": (right(300, 0), right(300, 1))})
    assert (record.passed, record.least_agreement) == (False, pytest.approx(299 / 300))
    assert record.worst.points == pytest.approx(100 / 300)


def test_precision_of_unlabelled_texts_is_judged_by_agreement() -> None:
    tally = Tally("int8")
    tally.add_answers(Pass({"mood": answers([0] * 200)}, 1.0), Pass({"mood": answers([0] * 199 + [1])}, 1.0))
    record = tally.record(measured_on="today", machine="here")
    assert (record.passed, record.worst, record.agreement) == (True, None, {"mood": 0.995})


def test_record_of_a_cached_bundle_goes_to_the_output(
    made: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERBATIM_CACHE", str(tmp_path / "cache"))
    bundle = tiny_bundle(tmp_path / "cache" / "bundles" / "tiny")
    write_results(made, bundle, str(tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "evaluation.html",
        "evaluation.json",
        "evaluation.md",
        "gates.yaml",
    ]
    assert not (bundle.folder / "gates.yaml").exists()
