"""Fine-tuning as it learns: losses, early ends, resuming, rates by layer. Seconds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.finetune import watch
from jobs.finetune.data import Data
from jobs.finetune.exam import Exam
from jobs.finetune.learn import Learnt, learn, prepare, step_tokens
from jobs.finetune.targets import Target, build_targets
from jobs.finetune.tuner import Tuner, build_tuner
from jobs.train.loop import TrainingError
from models.bundle import Bundle
from tests.jobs import finetune_fixtures
from tests.jobs.finetune_fixtures import data_of, reviews, settings_of

parent = finetune_fixtures.parent
pytestmark = pytest.mark.usefixtures("one_thread")


# --- losses


def target(data: Data, parent: Bundle) -> Target:
    return build_targets(data, parent.tokeniser.encode(data.texts), {})[0]


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


def sentiments(num: int) -> list[dict[str, Any]]:
    """Reviews under the labels of a head that the parent has."""
    return [{**row, "label": {"b": "negative", "g": "positive"}[row["label"]]} for row in reviews(num)]


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
    parent_share: float = 0.0,
    **changes: Any,
) -> tuple[Tuner, Learnt]:
    schedule = {"epochs": 3, "token_budget": 128, "dropout": 0.1, "mask_rate": 0.2, "patience": 3, **changes}
    how = {"schedule": schedule, "parent_share": parent_share, "checkpoint_every_s": 1e-9, "log_every_s": 1e9}
    settings = settings_of(path / "mine.jsonl", **how)
    torch.manual_seed(0)
    tuner = build_tuner(parent, data.heads, 0.1, is_frozen=False)
    material = prepare(data, parent.tokeniser.encode(data.texts), {})
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
    data = data_of(tmp_path, sentiments(30), parent, head="sentiment")
    assert data.heads[0].is_known
    tuner = build_tuner(parent, data.heads, 0.0, is_frozen=False)
    expected = parent.tensors()["heads.sentiment.weight"] / 1.5
    assert torch.equal(tuner.heads["sentiment"].weight, expected)


def test_a_share_of_the_parents_weights_is_put_back(tmp_path: Path, parent: Bundle) -> None:
    data = data_of(tmp_path, sentiments(60), parent, head="sentiment")
    for name in ("learnt", "mixed"):
        (tmp_path / name).mkdir()
    began = build_tuner(parent, data.heads, 0.0, is_frozen=False).state_dict()
    learnt = trained(tmp_path / "learnt", data, parent)[0].state_dict()
    mixed = trained(tmp_path / "mixed", data, parent, parent_share=0.25)[0].state_dict()
    assert any(not torch.equal(learnt[name], began[name]) for name in began)
    for name, own in mixed.items():
        torch.testing.assert_close(own, 0.75 * learnt[name] + 0.25 * began[name])


def test_a_killed_training_keeps_the_share_of_what_it_began_with(tmp_path: Path, parent: Bundle) -> None:
    data = data_of(tmp_path, sentiments(60), parent, head="sentiment")
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = trained(tmp_path / "whole", data, parent, parent_share=0.25)[0].state_dict()
    with pytest.raises(KilledError):
        trained(tmp_path / "killed", data, parent, parent_share=0.25, killed_at=5)
    again = trained(tmp_path / "killed", data, parent, parent_share=0.25)[0].state_dict()
    assert all(torch.equal(own, again[name]) for name, own in whole.items())
