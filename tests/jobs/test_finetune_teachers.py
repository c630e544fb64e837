"""Heads that learn from another bundle's probabilities. Seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from jobs.evaluate.answers import BundleSystem
from jobs.finetune.data import read_data
from jobs.finetune.run import finetune
from jobs.finetune.settings import CORRECTIONS, FinetuneError, FinetuneSettings
from jobs.finetune.targets import build_targets
from jobs.finetune.teach import Taught, ask, check_teachers, fetch_teachers
from models.bundle import Bundle
from models.heads import HeadSpec
from tests.jobs import finetune_fixtures
from tests.jobs.finetune_fixtures import data_of, reviews, settings_of, write
from tests.tiny import tiny_bundle

parent = finetune_fixtures.parent
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Knows the head `label` of the reviews, its labels in another order than they are learnt in."""
    folder = tmp_path_factory.mktemp("teachers") / "tiny"
    return tiny_bundle(folder, seed=1, heads=(HeadSpec(name="label", labels=("g", "b"), temperature=2.0),))


def two_sets(path: Path, teacher: Bundle, **changes: Any) -> FinetuneSettings:
    """A labelled set and one without labels, both taught."""
    for name, num in (("told", 60), ("untold", 40)):
        rows = [
            {**row, "text": f"{name} {row['text']}", "split": "dev" if i < 8 else "train"}
            for i, row in enumerate(reviews(num))
        ]
        write(path / f"{name}.jsonl", rows)
    split = {"column": "split", "value": "dev"}
    sets = {
        "told": {"input": str(path / "told.jsonl"), "labels": {"label": "label"}, "split": split},
        "untold": {"input": str(path / "untold.jsonl"), "split": split},
    }
    teachers = [{"bundle": str(teacher.folder), "head": "label", "sets": ["told", "untold"], "weight": 0.25}]
    return settings_of(path / "unused", **{"input": None, "sets": sets, "teachers": teachers, **changes})


def answered(teacher: Bundle, texts: list[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    system = BundleSystem(teacher, "fp32", token_budget=512, device="cpu", threads=1)
    probs_nc = system.answer(texts).answers["label"].probs_nc
    assert probs_nc is not None
    return probs_nc


def test_teachers_answer_the_training_texts_of_their_sets(tmp_path: Path, parent: Bundle, teacher: Bundle) -> None:
    settings = two_sets(tmp_path, teacher)
    data = read_data(settings, parent)
    own = ask(fetch_teachers(settings), data, settings)["label"]
    rows = data.rows("train")
    assert set(data.sets[rows]) == {0, 1}
    assert own.weights[rows].tolist() == [0.25] * len(rows)
    assert (np.delete(own.weights, rows) == 0).all()
    expected = answered(teacher, [data.texts[row] for row in rows])
    assert data.heads[0].spec.labels == ("b", "g")
    assert np.allclose(own.probs_nc[rows], expected[:, ::-1], atol=1e-5)


def test_what_people_put_right_is_not_taught(tmp_path: Path, parent: Bundle, teacher: Bundle) -> None:
    right = [{"text": f"told {reviews(20)[12]['text']}", "label": "g", "stars": None}]
    fixes = write(tmp_path / "fixes.jsonl", right)
    rows = [{**row, "text": f"told {row['text']}", "stars": "12345"[i % 5]} for i, row in enumerate(reviews(40))]
    sets = {
        "told": {
            "input": str(write(tmp_path / "told.jsonl", rows)),
            "labels": {"label": "label", "stars": "stars"},
        }
    }
    teachers = [{"bundle": str(teacher.folder), "head": "label", "sets": ["told"]}]
    settings = settings_of(tmp_path / "unused", input=None, sets=sets, teachers=teachers, corrections=str(fixes))
    data = read_data(settings, parent)
    own = ask(fetch_teachers(settings), data, settings)["label"]
    of_text = [row for row, text in enumerate(data.texts) if text == right[0]["text"]]
    assert [(data.parts[row], data.names[data.sets[row]]) for row in of_text] == [
        ("train", "told"),
        ("train", CORRECTIONS),
    ]
    assert own.weights[of_text].tolist() == [0.0, 0.0]
    assert own.weights.any()


def test_label_and_teacher_share_the_loss(tmp_path: Path, parent: Bundle) -> None:
    data = data_of(tmp_path, [*reviews(3), {"text": "who knows", "label": None}], parent)
    probs_nc = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.3, 0.7]], np.float32)
    taught = {"label": Taught(probs_nc, np.array([0.25, 0.25, 0.0, 0.25], np.float32))}
    (own,) = build_targets(data, parent.tokeniser.encode(data.texts), taught)
    outputs, rows = torch.randn(4, 2), np.arange(4)
    by_label = functional.cross_entropy(outputs, torch.tensor([0, 1, 0, 0]), reduction="none")
    by_teacher = functional.cross_entropy(outputs, torch.from_numpy(probs_nc), reduction="none")
    expected = torch.stack([0.75 * by_label[0] + 0.25 * by_teacher[0], 0.75 * by_label[1] + 0.25 * by_teacher[1]])
    expected = torch.cat([expected, by_label[2:3], by_teacher[3:]])  # nobody taught, then nobody labelled
    loss = own.loss(outputs, rows, np.full(4, 5, np.int32), torch.ones(4))
    assert float(loss) == pytest.approx(float(expected.mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("heads", "head", "message"),
    [
        (
            (HeadSpec(name="label", labels=("b", "n", "g")),),
            "label",
            r"has \['b', 'n', 'g'\] as 'label'; to be taught are",
        ),
        ((HeadSpec(name="other", labels=("b", "g")),), "label", r"has \[\] as 'label'"),
        ((HeadSpec(name="label", labels=("b", "g")),), "mood", r"head 'mood' can't be taught; .* are \['label'\]"),
    ],
)
def test_teachers_that_do_not_fit(
    tmp_path: Path, parent: Bundle, heads: tuple[HeadSpec, ...], head: str, message: str
) -> None:
    other = tiny_bundle(tmp_path / "other", heads=heads)
    teachers = [{"bundle": str(other.folder), "head": head, "sets": ["mine"]}]
    settings = settings_of(write(tmp_path / "mine.jsonl", reviews(20)), teachers=teachers)
    with pytest.raises(FinetuneError, match=message):
        check_teachers(fetch_teachers(settings), read_data(settings, parent))


def test_rows_that_allow_several_answers_are_not_taught(tmp_path: Path, parent: Bundle, teacher: Bundle) -> None:
    rows = [{**row, "label": "b|g" if i % 3 == 0 else row["label"]} for i, row in enumerate(reviews(30))]
    labels = {"label": {"column": "label", "any_of": True}}
    sets = {"mine": {"input": str(write(tmp_path / "mine.jsonl", rows)), "labels": labels}}
    teachers = [{"bundle": str(teacher.folder), "head": "label", "sets": ["mine"]}]
    heads = {"label": {"kind": "single", "labels": ["b", "g"]}}
    settings = settings_of(tmp_path / "unused", input=None, sets=sets, teachers=teachers, heads=heads)
    with pytest.raises(FinetuneError, match=r"'label' can't be taught; of one exact label a text are \[\]"):
        check_teachers(fetch_teachers(settings), read_data(settings, parent))


def test_an_unlabelled_set_teaches_what_its_teacher_says(tmp_path: Path, parent: Bundle, teacher: Bundle) -> None:
    """From a teacher's word alone the student agrees with it on texts that neither trained on."""
    rows: list[dict[str, Any]] = [{"text": row["text"] + " again", "split": "train"} for row in reviews(300)]
    rows += [{"text": row["text"], "split": "dev"} for row in reviews(60)]
    one_labelled = [{**row, "text": f"one {row['text']}"} for row in reviews(40)]
    sets = {
        "few": {"input": str(write(tmp_path / "few.jsonl", one_labelled)), "labels": {"label": "label"}},
        "untold": {
            "input": str(write(tmp_path / "untold.jsonl", rows)),
            "split": {"column": "split", "value": "dev"},
        },
    }
    teachers = [{"bundle": str(teacher.folder), "head": "label", "sets": ["few", "untold"], "weight": 1.0}]
    settings = settings_of(
        tmp_path / "unused",
        input=None,
        sets=sets,
        teachers=teachers,
        bundle=str(parent.folder),
        output=str(tmp_path / "out"),
        schedule={"epochs": 15, "token_budget": 256, "mask_rate": 0.0, "dropout": 0.0},
        baseline=False,
    )
    bundle = finetune(settings).bundle
    texts = [row["text"] for row in reviews(60)]
    theirs, ours = answered(teacher, texts)[:, ::-1], answered(bundle, texts)
    assert (theirs.argmax(axis=1) == ours.argmax(axis=1)).mean() > 0.8
