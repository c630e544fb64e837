"""What every training shares: vocabulary, the noise of a step, rates, plan, the loop and its resuming, exit codes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.train.__main__ import main
from jobs.train.command import run_command
from jobs.train.corpus import Corpus, corpus_of, take_tokens
from jobs.train.loop import Clock, Course, Running, Step, StepLoss, TrainingError, run_steps
from jobs.train.masking import Vocabulary, hide
from jobs.train.networks import Inputs, MaskedLanguageModel
from jobs.train.optim import Optimizer, rate_at, share_of
from jobs.train.plan import plan_steps
from jobs.train.pretrain_settings import ScheduleSettings
from jobs.train.tokenizer import SPECIAL, train_tokenizer
from models.architecture import Architecture
from models.masking import PLACEHOLDERS
from models.packing import pack
from models.tokeniser import Tokens

# --- tokenizer


def test_tokenizer_splits_han_folds_case_and_keeps_placeholders() -> None:
    tokenizer = train_tokenizer(["好的 手机 GREAT great phone"] * 5, 100)
    assert tokenizer.encode("手机Great [PHONE]").tokens == ["[CLS]", "手", "机", "great", "[PHONE]", "[SEP]"]
    assert [tokenizer.id_to_token(index) for index in range(len(SPECIAL))] == list(SPECIAL)


def test_whatever_is_masked_is_one_token() -> None:
    tokenizer = train_tokenizer(["好的 phone"] * 5, 100)
    for placeholder in PLACEHOLDERS:
        assert tokenizer.encode(f"x{placeholder}").tokens[-2:] == [placeholder, "[SEP]"]


# --- noise


def vocabulary() -> Vocabulary:
    """Tokens 0-4 special, 5-14 words, 15-19 going on, 20-29 Chinese."""
    place = np.arange(30)
    return Vocabulary(goes_on=(place >= 15) & (place < 20), is_han=place >= 20, is_special=place < 5, mask_id=4)


def test_the_asked_share_is_hidden_and_mostly_masked() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 30, 40_000).astype(np.int32)
    noisy, positions = hide(ids, 0.3, vocabulary(), rng)
    assert len(positions) / len(ids) == pytest.approx(0.3, abs=0.01)
    assert np.mean(noisy[positions] == 4) == pytest.approx(0.8, abs=0.02)
    untouched = np.setdiff1d(np.arange(len(ids)), positions)
    np.testing.assert_array_equal(noisy[untouched], ids[untouched])


def test_special_tokens_are_never_hidden_or_put_in() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 30, 10_000).astype(np.int32)
    noisy, positions = hide(ids, 0.5, vocabulary(), rng)
    assert (ids[positions] >= 5).all()
    assert set(noisy[positions]) <= {4, *range(5, 30)}


def test_pieces_of_a_word_are_hidden_together() -> None:
    ids = np.tile(np.array([5, 15, 16], dtype=np.int32), 2000)
    _, positions = hide(ids, 0.3, vocabulary(), np.random.default_rng(0))
    words, times = np.unique(positions // 3, return_counts=True)
    assert 400 < len(words) < 800
    assert (times == 3).all()


def test_chinese_is_hidden_in_runs() -> None:
    ids = np.full(20_000, 20, dtype=np.int32)
    _, positions = hide(ids, 0.2, vocabulary(), np.random.default_rng(0))
    runs = 1 + int((np.diff(positions) > 1).sum())
    assert len(positions) / runs > 1.8  # alone, tokens hidden at this rate stand in runs of 1.25


def test_nothing_is_hidden_at_rate_0() -> None:
    ids = np.arange(5, 15, dtype=np.int32)
    noisy, positions = hide(ids, 0.0, vocabulary(), np.random.default_rng(0))
    np.testing.assert_array_equal(noisy, ids)
    assert len(positions) == 0


# --- rates and plan


def test_learning_rate_rises_then_falls_to_nothing() -> None:
    rates = [rate_at(step, 100, 0.1) for step in range(100)]
    assert rates[9] == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert 0 < rates[99] < 0.02


def some_tokens(num: int) -> Tokens:
    """Texts of 3 to 9 tokens; those of text n are n."""
    lengths = (3 + np.arange(num) % 7).astype(np.int32)
    return Tokens(np.repeat(np.arange(num, dtype=np.int32), lengths), lengths, np.zeros(num, np.bool_))


def corpus() -> Corpus:
    return corpus_of(some_tokens(400), ("reviews", "tickets"), np.repeat(np.arange(2, dtype=np.int32), (240, 160)))


def test_texts_come_whole() -> None:
    assert [text.tolist() for text in corpus().gather(np.array([7, 1]))] == [[7, 7, 7], [1, 1, 1, 1]]
    taken = take_tokens(some_tokens(20), np.array([7, 1]))
    assert (taken.ids.tolist(), taken.lengths.tolist()) == ([7, 7, 7, 1, 1, 1, 1], [3, 4])
    assert len(take_tokens(some_tokens(20), np.zeros(0, np.int64))) == 0


def test_plan_reads_each_set_as_often_as_asked() -> None:
    texts = corpus()
    steps = plan_steps(texts, {"reviews": 1.5, "tickets": 0.25}, 2, 400, seed=1)
    rows = np.concatenate(steps)
    first, second = (int((texts.sets[rows] == place).sum()) for place in (0, 1))
    assert (first, second) == (2 * 360, 2 * 40)
    assert all(texts.lengths[step].sum() <= 400 for step in steps)
    assert [list(a) for a in plan_steps(texts, {"reviews": 1.0}, 1, 400, seed=1)] != [
        list(a) for a in plan_steps(texts, {"reviews": 1.0}, 1, 400, seed=2)
    ]


# --- loop

ALWAYS = Clock(log_every_s=1e9, checkpoint_every_s=1e-9)


class Book:
    """A watch that keeps the losses, and ends the stage after `most` steps."""

    def __init__(self, most: int) -> None:
        self.most, self.losses = most, list[float]()

    def after_step(self, number: int, loss: float, tokens: int) -> bool:
        self.losses.append(loss)
        return len(self.losses) == self.most

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = list(state["losses"])


def learner() -> MaskedLanguageModel:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    return MaskedLanguageModel(Architecture(vocab_size=30, max_position_embeddings=16, **shape), 0.1, has_order=False)


def loss_of(model: MaskedLanguageModel, step: Step) -> tuple[torch.Tensor, int]:
    ids = step.rng.integers(5, 30, 12)
    noisy, positions = hide(ids.astype(np.int32), 0.5, vocabulary(), step.rng)
    inputs = Inputs(pack(noisy, np.array([12])), torch.from_numpy(positions), torch.from_numpy(ids[positions]))
    return model(inputs).sum() / max(1, len(positions)), 12


def take(
    path: Path, loss: StepLoss[MaskedLanguageModel], num_steps: int, most: int = 1000
) -> tuple[MaskedLanguageModel, Book]:
    model, book = learner(), Book(most)
    optimizer = Optimizer([share_of(model.parameters(), model.trunk.layers)], 0.01, 0.02)
    course = Course([np.array([0])] * num_steps, loss, ScheduleSettings(), seed=3)
    run_steps(model, course, Running(model, optimizer, book), path, ALWAYS)
    return model, book


class KilledError(Exception):
    """Stands for a kill in the middle of a stage."""


def test_a_killed_stage_ends_as_if_never_killed(tmp_path: Path) -> None:
    calls = iter(range(100))

    def until_killed(model: MaskedLanguageModel, step: Step) -> tuple[torch.Tensor, int]:
        if next(calls) == 7:
            raise KilledError
        return loss_of(model, step)

    whole, losses = take(tmp_path / "whole.pt", loss_of, 20)
    with pytest.raises(KilledError):
        take(tmp_path / "halves.pt", until_killed, 20)
    again, found = take(tmp_path / "halves.pt", loss_of, 20)
    assert len(found.losses) == 20
    assert found.losses == losses.losses
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_stage_that_its_watch_ended_stays_ended(tmp_path: Path) -> None:
    first, _ = take(tmp_path / "stage.pt", loss_of, 20, most=5)
    again, book = take(tmp_path / "stage.pt", loss_of, 20)
    assert len(book.losses) == 5
    assert torch.equal(first.decoder_bias, again.decoder_bias)


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    calls = iter(range(100))

    def breaks(model: MaskedLanguageModel, step: Step) -> tuple[torch.Tensor, int]:
        loss, tokens = loss_of(model, step)
        return (loss * math.nan if next(calls) == 3 else loss), tokens

    with pytest.raises(TrainingError, match="loss is nan at step 3"):
        take(tmp_path / "stage.pt", breaks, 6)
    assert torch.load(tmp_path / "stage.pt", weights_only=True)["step"] == 3


# --- commands


def failing(error: BaseException) -> Callable[[], int]:
    def work() -> int:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (TrainingError("the loss is nan"), 1, "the loss is nan\n"),
        (ValueError("seed: 'x'"), 2, "ValueError: seed: 'x'\n"),
        (FileNotFoundError("no data"), 2, "FileNotFoundError: no data\n"),
        (KeyboardInterrupt(), 130, "interrupted: the same command goes on from the last checkpoint\n"),
    ],
)
def test_what_stops_a_command_is_its_exit_code(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(failing(error)) == code
    assert capsys.readouterr().err == message


def test_a_command_gives_what_its_work_gives() -> None:
    assert [run_command(lambda: 0), run_command(lambda: 1)] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"), [([], "usage: python -m jobs.train"), (["nowhere.yaml"], "nowhere.yaml")]
)
def test_what_cannot_run_says_so(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
