"""The mean of the weights of bundles that were fine-tuned before. Seconds."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.finetune.average import average, fetch_members
from jobs.finetune.data import Data
from jobs.finetune.exam import Exam
from jobs.finetune.heads import LearntHead
from jobs.finetune.learn import prepare
from jobs.finetune.run import finetune
from jobs.finetune.settings import FinetuneError, HeadSettings
from models.bundle import CARD_FILE, TOKENIZER_FILE, Bundle, load_bundle, save_bundle
from models.heads import HeadSpec
from models.tokeniser import Tokeniser
from tests.jobs import finetune_fixtures
from tests.jobs.finetune_fixtures import data_of, reviews, settings_of, write
from tests.tiny import tiny_bundle

parent = finetune_fixtures.parent
pytestmark = pytest.mark.usefixtures("one_thread")

HEADS = (HeadSpec(name="label", labels=("b", "g"), temperature=2.0),)


def sibling(one: Bundle, folder: Path, *, scale: float) -> Bundle:
    """The same bundle with its head's weights times `scale`."""
    folder.mkdir()
    shutil.copyfile(one.folder / TOKENIZER_FILE, folder / TOKENIZER_FILE)
    tensors = {
        name: (tensor * scale if name.startswith("heads.") else tensor).contiguous()
        for name, tensor in one.tensors().items()
    }
    return save_bundle(folder, one.spec, tensors, "")


def disputed() -> list[dict[str, Any]]:
    """Reviews of which one in seven has the wrong label, so that nobody can be sure."""
    return [
        {**row, "label": {"b": "g", "g": "b"}[row["label"]] if i % 7 == 0 else row["label"]}
        for i, row in enumerate(reviews(200))
    ]


@pytest.fixture
def data(tmp_path: Path, parent: Bundle) -> Data:
    return data_of(tmp_path, disputed(), parent, tune=0.4)


@pytest.fixture
def good(tmp_path: Path, data: Data, parent: Bundle) -> Bundle:
    """Learnt from the reviews."""
    path = write(tmp_path / "mine.jsonl", disputed())
    schedule = {"epochs": 25}
    return finetune(settings_of(path, bundle=str(parent.folder), method="finetune", tune=0.4, schedule=schedule)).bundle


def exam_of(data: Data, bundle: Bundle) -> Exam:
    return prepare(data, Tokeniser(bundle.folder / TOKENIZER_FILE, 64).encode(data.texts), {}).exam


def test_takes_what_does_not_make_the_mean_worse(tmp_path: Path, data: Data, good: Bundle) -> None:
    """A twin of twice the weights gives the same answers; one with all answers turned round spoils them."""
    twin = sibling(good, tmp_path / "twin", scale=2.0)
    spoilt = sibling(good, tmp_path / "spoilt", scale=-5.0)
    tuner, mean = average([spoilt, good, twin], data.heads, exam_of(data, good), "cpu")
    assert [(one.bundle, one.is_taken) for one in mean.members] == [(good, True), (twin, True), (spoilt, False)]
    assert mean.worth == mean.members[0].worth > 0.75
    assert mean.members[2].worth < 0.25
    weight = good.tensors()["heads.label.weight"].float()
    assert torch.allclose(tuner.head_tensors()["heads.label.weight"], 1.5 * weight)
    for name, tensor in tuner.trunk_tensors().items():
        assert torch.equal(tensor, good.tensors()[name].float()), name


def test_a_mean_is_a_bundle_calibrated_and_described(tmp_path: Path, parent: Bundle, data: Data, good: Bundle) -> None:
    twin = sibling(good, tmp_path / "twin", scale=3.0)
    changes: dict[str, Any] = {"bundle": str(parent.folder), "output": str(tmp_path / "mean"), "tune": 0.4}
    finished = finetune(settings_of(tmp_path / "mine.jsonl", average=[str(good.folder), str(twin.folder)], **changes))
    bundle = load_bundle(tmp_path / "mean")
    assert torch.allclose(
        bundle.tensors()["heads.label.weight"].float(), 2 * good.tensors()["heads.label.weight"].float(), rtol=1e-3
    )
    head, old = bundle.spec.heads[0], good.spec.heads[0]
    assert head.temperature == pytest.approx(2 * old.temperature, rel=0.02)
    assert finished.evaluation is not None
    card = (bundle.folder / CARD_FILE).read_text(encoding="utf-8")
    assert "the mean of the weights" in card
    told = re.findall(r"^- (`\w+@\w+`|the mean): ([\d.]+)", card, re.MULTILINE)
    assert {name for name, _ in told} == {f"`{good}`", f"`{twin}`", "the mean"}
    assert len({worth for _, worth in told}) == 1
    assert "epochs planned" not in card


def test_teachers_are_not_asked_again(tmp_path: Path, parent: Bundle, data: Data, good: Bundle) -> None:
    """The recipe's own settings, teachers and all, and its results as `average`: the teacher needn't be there still."""
    twin = sibling(good, tmp_path / "twin", scale=1.0)
    teachers = [{"bundle": str(tmp_path / "gone"), "head": "label", "sets": ["mine"]}]
    members = [str(good.folder), str(twin.folder)]
    where = {"bundle": str(parent.folder), "output": str(tmp_path / "mean")}
    finished = finetune(settings_of(tmp_path / "mine.jsonl", average=members, teachers=teachers, **where))
    assert finished.is_in_place


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": (HeadSpec(name="label", labels=("g", "b")),)}, "no head 'label' of the labels"),
        ({"heads": (HeadSpec(name="other", labels=("b", "g")),)}, "no head 'label' of the labels"),
    ],
)
def test_members_must_have_the_heads(tmp_path: Path, data: Data, changes: dict[str, Any], said: str) -> None:
    fits = tiny_bundle(tmp_path / "fits", heads=HEADS)
    other = tiny_bundle(tmp_path / "other", **changes)
    with pytest.raises(FinetuneError, match=said):
        average([fits, other], data.heads, exam_of(data, fits), "cpu")


@pytest.mark.parametrize(("changes", "said"), [({"max_length": 32}, "architecture"), ({}, "tokenizer")])
def test_members_must_be_of_the_parents_build(
    tmp_path: Path, parent: Bundle, changes: dict[str, Any], said: str
) -> None:
    other = tiny_bundle(tmp_path / "other", heads=HEADS, **changes)
    if not changes:
        (tmp_path / "words").mkdir()
        text = (other.folder / TOKENIZER_FILE).read_text(encoding="utf-8").replace('"~"', '"\u20ac"')
        (tmp_path / "words" / TOKENIZER_FILE).write_text(text, encoding="utf-8")
        other = save_bundle(tmp_path / "words", other.spec, other.tensors(), "")
    settings = settings_of(tmp_path / "mine.jsonl", average=[str(parent.folder), str(other.folder)])
    with pytest.raises(FinetuneError, match=f"another {said} than the parent tiny@"):
        fetch_members(settings, parent)


def test_without_a_text_to_tell_by_nothing_is_averaged(tmp_path: Path, parent: Bundle) -> None:
    data = data_of(tmp_path, reviews(40), parent)
    exam = exam_of(data, parent)
    empty = Exam(exam.corpus, exam.tokens, {"label": exam.labels["label"].take(np.arange(0))})
    with pytest.raises(FinetuneError, match="no labelled text was kept for tuning"):
        average([parent, parent], data.heads, empty, "cpu")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"average": ["a"]}, "two bundles or more"),
        ({"average": ["a", "b"], "adapter": {"rank": 4}}, "leave out adapter"),
        ({"average": ["a", "b"], "canaries": 3}, "leave out adapter, canaries"),
        ({"average": ["a", "b"], "method": "fewshot"}, "method fewshot"),
    ],
)
def test_settings_that_contradict_a_mean(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        settings_of(tmp_path / "mine.jsonl", **changes)


def test_a_head_known_to_the_parent_is_taken_from_the_members(tmp_path: Path, data: Data, good: Bundle) -> None:
    """Its temperature there is another one: the members' weights are averaged as they stand."""
    heads = [LearntHead(good.spec.heads[0], HeadSettings(), "known", is_known=True)]
    tuner, _ = average([good, good], heads, exam_of(data, good), "cpu")
    assert torch.equal(tuner.head_tensors()["heads.label.weight"], good.tensors()["heads.label.weight"].float())
