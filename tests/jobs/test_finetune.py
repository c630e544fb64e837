"""Fine-tuning's parts: kinds, splits, odd labels, masks, tags, resuming, few examples, canaries. Seconds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.config import SettingsError, load_config, parse_config
from jobs.finetune import learn as learn_module
from jobs.finetune import watch
from jobs.finetune.__main__ import DEFAULTS
from jobs.finetune.calibrate import likeliest_temperature, probabilities, suggest_abstention
from jobs.finetune.canaries import exposure, plant
from jobs.finetune.data import Data, label_counts, read_data
from jobs.finetune.exam import Exam
from jobs.finetune.fewshot import Examples, learn_few, word_accuracy
from jobs.finetune.guess import guess
from jobs.finetune.learn import Learnt, learn, learn_from_few, may_be_few, prepare, step_tokens
from jobs.finetune.settings import FinetuneError, FinetuneSettings
from jobs.finetune.spans import IGNORED, moved_to_masked, tag_labels, token_tags
from jobs.finetune.split import DEV, LEFT_OUT, TRAIN, TUNE, split_texts
from jobs.finetune.targets import Target, build_targets
from jobs.finetune.tuner import Tuner, build_tuner
from jobs.train.loop import TrainingError
from models.bundle import Bundle
from models.clean import clean
from models.heads import HeadSpec
from models.masking import mask
from models.tags import find_spans
from models.tokeniser import Tokeniser, Tokens
from tests.tiny import tiny_bundle

GOOD, BAD = ["good", "great", "nice", "好", "喜欢"], ["bad", "poor", "sad", "差", "讨厌"]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("parents") / "tiny")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def reviews(num: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [{"text": f"{' '.join(rng.choice((BAD, GOOD)[i % 2], 2))} {i}", "label": "bg"[i % 2]} for i in range(num)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def settings_of(path: Path, **changes: Any) -> FinetuneSettings:
    plain = {"input": str(path), "output": str(path.parent / "out"), "threads": 1, "precision": "fp32", **changes}
    return parse_config(plain, FinetuneSettings, "test")


def data_of(path: Path, rows: list[dict[str, Any]], parent: Bundle, **changes: Any) -> Data:
    return read_data(settings_of(write(path / "mine.jsonl", rows), **changes), parent)


# --- settings and kinds


def test_the_yaml_holds_the_defaults() -> None:
    least = {"input": "my.csv", "output": "out/mine"}
    given = [f"{key}={value}" for key, value in least.items()]
    assert load_config(DEFAULTS, given, FinetuneSettings) == parse_config(least, FinetuneSettings, "test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "give either input"),
        ({"input": "a.csv", "sets": {"a": {"input": "a.csv", "labels": {"x": "y"}}}}, "give either input"),
        ({"sets": {"a": {"input": "a.csv"}}}, r"sets without labels can't teach anything: \['a'\]"),
        ({"input": "a.csv", "repeat": {"b": 2.0}}, r"repeat names \['b'\]; the sets are \['a'\]"),
        ({"input": "a.csv", "sheduel": {}}, "did you mean schedule?"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_config({"output": "o", **changes}, FinetuneSettings, "test")


@pytest.mark.parametrize(
    ("cells", "kind", "labels"),
    [
        (["b", "a", None, "b"], "single", ("a", "b")),
        ([0, 1, 1], "single", ("0", "1")),
        ([3, 1, 2, "3", 1.0], "ordinal", ("1", "2", "3")),
        ([1, 3], "single", ("1", "3")),
        (["a|b", "a", ""], "multi", ("a", "b")),
        (['["a"]', "[]", '["c", "b"]'], "multi", ("a", "b", "c")),
        ([["x"], ["y"]], "multi", ("x", "y")),
        (['[[0, 4, "food"]]', "[]"], "token", ("food",)),
        ([[{"start": 0, "end": 2, "label": "b"}], [{"start": 0, "end": 2, "label": "a"}]], "token", ("a", "b")),
    ],
)
def test_kinds_are_guessed(cells: list[Any], kind: str, labels: tuple[str, ...]) -> None:
    found = guess(cells, "head x")
    assert (found.kind, found.labels) == (kind, labels)


def test_a_kind_that_is_said_is_not_guessed() -> None:
    assert guess([1, 2, 3], "head x", "single").kind == "single"
    assert guess(["a", "b"], "head x", "multi").kind == "multi"


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([None, ""], "head x: not one of 2 rows has a label"),
        (["a", "a"], "head x: all labelled rows have the label 'a'; at least 2 different labels are needed"),
        (["[]", "[]"], "head x: no row has a label"),
        ([f"text {i}" for i in range(1001)], "1001 different values; is this a column of labels?"),
    ],
)
def test_columns_that_teach_nothing(cells: list[Any], message: str) -> None:
    with pytest.raises(FinetuneError, match=message):
        guess(cells, "head x")


# --- splits and odd data


def test_parts_follow_from_the_text_alone() -> None:
    texts = [f"text {i}" for i in range(4000)]
    none = np.zeros(4000, np.bool_)
    parts = split_texts(texts, none, none, (0.15, 0.06))
    shares = {part: float((parts == part).mean()) for part in (TRAIN, TUNE, DEV)}
    assert shares == pytest.approx({TRAIN: 0.79, TUNE: 0.06, DEV: 0.15}, abs=0.02)
    backwards = split_texts(texts[::-1], none, none, (0.15, 0.06))
    assert (parts == backwards[::-1]).all()


def test_duplicates_never_straddle() -> None:
    none = np.zeros(400, np.bool_)
    parts = split_texts([f"text {i % 200}" for i in range(400)], none, none, (0.3, 0.2))
    assert (parts[:200] == parts[200:]).all()


def test_training_rows_that_repeat_a_held_out_text_are_left_out() -> None:
    parts = split_texts(["a", "b", "a"], np.array([False, False, True]), np.ones(3, np.bool_), (0.15, 1e-9))
    assert parts.tolist() == [LEFT_OUT, TRAIN, DEV]


def test_contradictory_labels_are_listed_by_id(
    tmp_path: Path, parent: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"key": f"r{i}", **row} for i, row in enumerate(reviews(30))]
    rows += [
        {"key": "x1", "text": "mixed feelings", "label": "g"},
        {"key": "x2", "text": " mixed  feelings", "label": "b"},
    ]
    data = data_of(tmp_path, rows, parent, id="key")
    assert data.contradictory == {"label": (("x1", "x2"),)}
    assert "1 texts have contradictory labels: x1, x2" in caplog.text
    assert "mixed feelings" not in caplog.text


def test_missing_labels_are_counted(tmp_path: Path, parent: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    data = data_of(tmp_path, [*reviews(30), {"text": "who knows", "label": None}], parent)
    assert "1 rows of its sets have no label" in caplog.text
    assert int(data.labels["label"].known.sum()) == 30


def test_a_label_the_parent_does_not_know_is_named(tmp_path: Path, parent: Bundle) -> None:
    with pytest.raises(ValueError, match="no such label: 'b'"):
        data_of(tmp_path, reviews(30), parent, head="sentiment")


def test_a_head_of_another_kind_than_the_parents(tmp_path: Path, parent: Bundle) -> None:
    with pytest.raises(
        FinetuneError, match=r"head stars is ordinal in tiny@.*; name yours otherwise \(head=my_stars\)"
    ):
        data_of(tmp_path, reviews(30), parent, head="stars", heads={"stars": {"kind": "single"}})


@pytest.mark.parametrize("labels", [["positive", "neutral", "negative"], ["negative", "positive"]])
def test_other_labels_than_the_parents_are_refused_and_its_own_are_not(
    tmp_path: Path, parent: Bundle, labels: list[str]
) -> None:
    rows = [{"text": f"t{index}", "label": ("negative", "neutral", "positive")[index % 3]} for index in range(30)]
    own = ["negative", "neutral", "positive"]
    data = data_of(tmp_path, rows, parent, head="sentiment", heads={"sentiment": {"labels": own}})
    assert data.heads[0].is_known
    with pytest.raises(FinetuneError, match=r"head sentiment is single in tiny@.*, with labels of its own"):
        data_of(tmp_path, rows, parent, head="sentiment", heads={"sentiment": {"labels": labels}})


def test_heads_that_no_set_labels_are_refused(tmp_path: Path, parent: Bundle) -> None:
    with pytest.raises(
        FinetuneError, match=r"heads names \['moood'\], which no set has labels for; there are \['label'\]"
    ):
        data_of(tmp_path, reviews(30), parent, heads={"moood": {}})


def test_corrections_weigh_more_and_replace_rows_of_their_text(tmp_path: Path, parent: Bundle) -> None:
    rows = reviews(60)
    fixes = write(tmp_path / "fixes.jsonl", [{"text": row["text"], "label": "g"} for row in rows[:20]])
    data = data_of(tmp_path, rows, parent, corrections=str(fixes), corrections_weight=3.0)
    assert data.names == ("mine", "corrections")
    assert (data.parts[:20] == LEFT_OUT).all()
    assert (data.parts[-20:] == TRAIN).all()
    assert data.weights.tolist() == [1.0] * 60 + [3.0] * 20
    assert data.contradictory == {"label": ()}


def test_personal_data_is_masked_before_anything_else(tmp_path: Path, parent: Bundle) -> None:
    rows = [{**row, "text": f"{row['text']} call 13812345678"} for row in reviews(30)]
    data = data_of(tmp_path, rows, parent)
    assert all("[PHONE]" in text and "13812345678" not in text for text in data.texts)


def test_sets_label_only_some_heads(tmp_path: Path, parent: Bundle) -> None:
    first = write(tmp_path / "a.jsonl", reviews(20))
    second = write(tmp_path / "b.jsonl", [{"text": f"x {i}", "topic": "p|q" if i % 2 else "p"} for i in range(10)])
    sets = {"a": {"input": str(first), "labels": {"mood": "label"}}}
    sets["b"] = {"input": str(second), "labels": {"topic": "topic"}}
    data = read_data(settings_of(first, input=None, sets=sets), parent)
    assert [(head.spec.name, head.spec.kind) for head in data.heads] == [("mood", "single"), ("topic", "multi")]
    assert data.labels["mood"].known.tolist() == [True] * 20 + [False] * 10
    assert data.labels["topic"].truth[20:].tolist() == [[True, False], [True, True]] * 5


def test_the_digest_names_labels(tmp_path: Path, parent: Bundle) -> None:
    rows = reviews(30)
    one = data_of(tmp_path, rows, parent)
    rows[3] = {**rows[3], "label": "b"}
    assert one.digest() != data_of(tmp_path, rows, parent).digest()


# --- spans


@pytest.mark.parametrize(
    ("raw", "span", "expected"),
    [
        ("good food", (5, 9), "food"),
        ("  good &amp;  food", (14, 18), "food"),
        ("call 13812345678 about food", (23, 27), "food"),
        ("call 13812345678 now", (8, 12), "[PHONE]"),
    ],
)
def test_spans_follow_their_text_through_cleaning_and_masking(raw: str, span: tuple[int, int], expected: str) -> None:
    ((start, end, label),) = moved_to_masked(frozenset({(*span, "x")}), raw)
    assert (mask(clean(raw))[start:end], label) == (expected, "x")


def encoded(parent: Bundle, texts: list[str]) -> Tokens:
    return parent.tokeniser.encode(texts, with_offsets=True)


def test_tags_are_read_back_as_the_same_spans(parent: Bundle) -> None:
    labels = tag_labels(("neg", "pos"))
    assert labels == ("O", "B-neg", "I-neg", "B-pos", "I-pos")
    texts = ["手机很好电池差", "great food, slow staff", "快"]
    spans = [
        frozenset({(0, 2, "pos"), (4, 6, "neg")}),
        frozenset({(6, 10, "pos"), (12, 22, "neg")}),
        frozenset(),
    ]
    tokens = encoded(parent, texts)
    tags = token_tags(spans, labels, tokens)
    assert (tags == IGNORED).sum() == 2 * len(texts)
    probs = np.eye(len(labels), dtype=np.float32)[np.maximum(tags, 0)]
    found = find_spans(labels, probs, tokens).to_pylist()
    assert [frozenset((s["start"], s["end"], s["label"]) for s in own) for own in found] == spans


def test_neighbouring_spans_stay_two(parent: Bundle) -> None:
    labels = tag_labels(("a",))
    spans = frozenset({(0, 1, "a"), (1, 2, "a")})
    tags = token_tags([spans], labels, encoded(parent, ["手机"]))
    assert tags.tolist() == [IGNORED, 1, 1, IGNORED]


# --- losses


def target(data: Data, parent: Bundle) -> Target:
    return build_targets(data, parent.tokeniser.encode(data.texts))[0]


def test_rows_without_a_label_do_not_count(tmp_path: Path, parent: Bundle) -> None:
    rows = [*reviews(10), {"text": "who knows", "label": None}]
    data = data_of(tmp_path, rows, parent)
    own = target(data, parent)
    outputs, lengths = torch.randn(2, 2), np.array([5, 5], np.int32)
    both = own.loss(outputs, np.array([0, 10]), lengths, torch.ones(2))
    assert float(both) == pytest.approx(float(torch.nn.functional.cross_entropy(outputs[:1], torch.tensor([0]))))
    assert float(own.loss(outputs, np.array([10, 10]), lengths, torch.ones(2))) == 0.0


def test_a_rows_weight_is_its_share(tmp_path: Path, parent: Bundle) -> None:
    own = target(data_of(tmp_path, reviews(10), parent), parent)
    outputs, lengths = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), np.array([5, 5], np.int32)
    right, wrong = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    loss = own.loss(outputs, np.array([0, 1]), lengths, torch.tensor([3.0, 1.0]))
    assert float(loss) == pytest.approx((3 * right + wrong) / 4)


def test_balanced_weights_favour_rare_labels(tmp_path: Path, parent: Bundle) -> None:
    rows = [{**row, "label": "g" if i % 10 else "b"} for i, row in enumerate(reviews(200))]
    weights = target(data_of(tmp_path, rows, parent, heads={"label": {"class_weights": "balanced"}}), parent)
    rare, common = weights.class_weights.tolist()
    assert rare > 2 * common


# --- training and resuming


class KilledError(Exception):
    """Stands for a kill in the middle of training."""


def trained(
    path: Path,
    data: Data,
    parent: Bundle,
    *,
    killed_at: int | None = None,
    poisoned_at: int | None = None,
    **changes: Any,
) -> tuple[Tuner, Learnt]:
    schedule = {"epochs": 3, "token_budget": 128, "dropout": 0.1, "mask_rate": 0.2, "patience": 3, **changes}
    settings = settings_of(path / "mine.jsonl", schedule=schedule, checkpoint_every_s=1e-9, log_every_s=1e9)
    torch.manual_seed(0)
    tuner = build_tuner(parent, data.heads, 0.1, is_frozen=False)
    material = prepare(data, parent.tokeniser.encode(data.texts))
    calls, forward = iter(range(10**6)), tuner.trunk.forward

    def counted(batch: Any) -> torch.Tensor:
        number = next(calls) if tuner.training else -1
        if number == killed_at:
            raise KilledError
        return forward(batch) * (math.nan if number == poisoned_at else 1.0)

    tuner.trunk.forward = counted
    return tuner, learn(tuner, material, settings, parent, path)


def test_a_killed_training_goes_on_with_the_same_curve_and_weights(tmp_path: Path, parent: Bundle) -> None:
    data = data_of(tmp_path, reviews(120), parent)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    straight, learnt = trained(whole, data, parent)
    assert len(learnt.losses) > 12
    for step in (5, 6):  # of what was left, so once before and once after the first exam
        with pytest.raises(KilledError):
            trained(killed, data, parent, killed_at=step)
    again, resumed = trained(killed, data, parent)
    assert resumed.losses == learnt.losses
    assert resumed.worths == learnt.worths
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_loss_that_is_no_number_keeps_the_last_checkpoint(tmp_path: Path, parent: Bundle) -> None:
    data = data_of(tmp_path, reviews(120), parent)
    with pytest.raises(TrainingError, match="loss is nan at step 4"):
        trained(tmp_path, data, parent, poisoned_at=4)
    state = torch.load(tmp_path / "train.pt", weights_only=True)
    assert state["step"] == 4
    assert all(bool(tensor.isfinite().all()) for tensor in state["model"].values())


def test_a_time_limit_ends_training(tmp_path: Path, parent: Bundle) -> None:
    _, learnt = trained(tmp_path, data_of(tmp_path, reviews(120), parent), parent, time_limit_s=1e-9)
    assert len(learnt.losses) == 1


def told(monkeypatch: pytest.MonkeyPatch, *worths: float) -> None:
    """Let the exam say these of the epochs, one after the other."""
    said = iter(worths)
    monkeypatch.setattr(Exam, "worth", lambda *_: next(said))


def test_what_ends_early_keeps_its_best_weights(
    tmp_path: Path, parent: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "FEWEST_ASKED", 1)
    told(monkeypatch, 0.2, 0.9, 0.5, 1.0)
    tuner, learnt = trained(tmp_path, data_of(tmp_path, reviews(120), parent), parent, epochs=4, patience=1)
    assert (learnt.worths, learnt.is_early) == ([0.2, 0.9, 0.5], True)
    state = torch.load(tmp_path / "train.pt", weights_only=True)
    for name, tensor in tuner.state_dict().items():
        assert torch.equal(tensor, state["watch"]["best"][name]), name
    assert not torch.equal(state["model"]["heads.label.weight"], tuner.state_dict()["heads.label.weight"])


def test_what_goes_to_its_end_keeps_its_last_weights(
    tmp_path: Path, parent: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer than 200 texts to ask can't tell epochs apart, so they end nothing."""
    told(monkeypatch, 0.9, 0.5, 0.4, 0.3)
    tuner, learnt = trained(tmp_path, data_of(tmp_path, reviews(120), parent), parent, epochs=4, patience=1)
    assert (len(learnt.worths), learnt.is_early) == (4, False)
    state = torch.load(tmp_path / "train.pt", weights_only=True)
    for name, tensor in tuner.state_dict().items():
        assert torch.equal(tensor, state["model"][name]), name
    assert not torch.equal(state["watch"]["best"]["heads.label.weight"], tuner.state_dict()["heads.label.weight"])


@pytest.mark.parametrize(
    ("num_texts", "length", "expected"),
    [(20, 10, 256), (1000, 20, 800), (9000, 15, 2048), (9000, 60, 2880), (9000, 200, 4096)],
)
def test_steps_grow_with_the_texts(num_texts: int, length: int, expected: int) -> None:
    assert step_tokens(np.full(num_texts, length, np.int32)) == expected


def test_layers_further_down_learn_slower(tmp_path: Path, parent: Bundle) -> None:
    tuner = build_tuner(parent, data_of(tmp_path, reviews(30), parent).heads, 0.0, is_frozen=False)
    shares = tuner.shares(0.5)
    assert [share.factor for share in shares] == [1.0, 0.25, 0.5, 0.125]
    counted = sum(p.numel() for share in shares for p in (*share.matrices, *share.rest))
    assert counted == sum(p.numel() for p in tuner.parameters())


def test_a_frozen_trunk_has_nothing_to_learn(tmp_path: Path, parent: Bundle) -> None:
    tuner = build_tuner(parent, data_of(tmp_path, reviews(30), parent).heads, 0.0, is_frozen=True)
    learning = [p for share in tuner.shares(0.9) for p in (*share.matrices, *share.rest)]
    assert {id(p) for p in learning} == {id(p) for p in tuner.heads.parameters()}


def test_a_head_of_the_parent_goes_on_from_its_answers(tmp_path: Path, parent: Bundle) -> None:
    rows = [{**row, "label": {"b": "negative", "g": "positive"}[row["label"]]} for row in reviews(30)]
    data = data_of(tmp_path, rows, parent, head="sentiment")
    assert data.heads[0].is_known
    tuner = build_tuner(parent, data.heads, 0.0, is_frozen=False)
    expected = parent.tensors()["heads.sentiment.weight"] / 1.5
    assert torch.equal(tuner.heads["sentiment"].weight, expected)


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
    learnt = learn_from_few(tuner, prepare(data, parent.tokeniser.encode(data.texts)), settings)
    assert (learnt is not None) is (knows or method == "fewshot")


def test_few_shot_is_for_one_new_head(tmp_path: Path, parent: Bundle) -> None:
    rows = [{"text": f"x {i}", "label": "p|q" if i % 2 else "p"} for i in range(20)]
    data = data_of(tmp_path, rows, parent)
    with pytest.raises(FinetuneError, match="method fewshot learns one new head of one label a text"):
        may_be_few(data, settings_of(tmp_path / "mine.jsonl", method="fewshot"))


# --- calibration and canaries


def test_temperature_undoes_a_known_overstatement() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    drawn = (probs.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)

    def loss_at(temperature: float) -> float:
        return float(-np.log(probabilities(logits * 2.5, temperature)[np.arange(20_000), drawn]).mean())

    assert likeliest_temperature(loss_at) == pytest.approx(2.5, rel=0.05)


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


def test_label_counts_are_of_one_part(tmp_path: Path, parent: Bundle) -> None:
    data = data_of(tmp_path, reviews(100), parent)
    counts = [label_counts(data, data.heads[0], part) for part in (TRAIN, TUNE, DEV)]
    assert {label: sum(own[label] for own in counts) for label in "bg"} == {"b": 50, "g": 50}
