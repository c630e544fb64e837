"""Pretraining as a whole: results, kills, several workers, bad losses. Each run takes seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import multiprocessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from cluster.stores import open_store
from jobs.train import checkpoints
from jobs.train.__main__ import main
from jobs.train.crew import Crew
from jobs.train.curves import Point, read_curve
from jobs.train.documents import plan_slices
from jobs.train.loop import TrainingError
from jobs.train.networks import CausalLanguageModel
from jobs.train.run import prepare
from jobs.train.trainer import Job, Trainer, build_model
from models.bundle import TOKENIZER_FILE, load_bundle
from models.packing import pack
from models.scorer import Scorer
from tests.jobs.pretrain_fixtures import crew_member, learn_tokenizer, plain_settings, settings, write_corpus
from tests.tiny import tiny_bundle

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def command(folder: Path, plain: dict[str, Any]) -> list[str]:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return [sys.executable, "-m", "jobs.train", str(path)]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {"use": learn_tokenizer(tmp_path_factory.mktemp("tokenizer"))}


def job_of(data: list[dict[str, Any]], output: Path, **changes: Any) -> Job:
    """What workers need, made without Ray however many they are."""
    own = settings(data, output, **changes)
    one = own.model_copy(update={"workers": 1, "sharding": "none"})
    return replace(prepare(one, open_store(own.output), plan_slices(own.data), "cpu", None), settings=own)


def weights(output: Path) -> dict[str, torch.Tensor]:
    found = checkpoints.newest(open_store(str(output)).child("checkpoints"))
    assert found is not None
    return found.model_tensors()


def losses(output: Path) -> list[tuple[float, ...]]:
    """The curve without its times."""
    points = read_curve(open_store(str(output)))
    return [(p.step, p.tokens, p.loss, p.word_loss, p.order_loss, p.grad_norm, p.rate) for p in points]


# --- results


def test_a_run_gives_a_bundle(data: list[dict[str, Any]], tmp_path: Path) -> None:
    plain = plain_settings(data, tmp_path / "out", schedule={"max_steps": 40})
    assert main(command(tmp_path, plain)[3:]) == 0
    bundle = load_bundle(tmp_path / "out" / "bundle")
    assert [head.kind for head in bundle.spec.heads] == ["embedding"]
    scores = Scorer(bundle, token_budget=64).score(bundle.tokeniser.encode(["good phone", "手机很好"]))
    assert np.isfinite(np.array(scores["embedding"].to_pylist())).all()
    curve = losses(tmp_path / "out")
    assert [point[0] for point in curve] == list(range(1, 41))
    assert np.mean([point[3] for point in curve[-8:]]) < 0.97 * curve[0][3]  # words are drawn evenly: little to learn
    assert len(list((tmp_path / "out" / "checkpoints").iterdir())) == 2
    card = (bundle.folder / "README.md").read_text(encoding="utf-8")
    assert "40 steps" in card
    assert "the order of two segments" in card


def test_a_gpt_comes_out_as_transformers_knows_it(data: list[dict[str, Any]], tmp_path: Path) -> None:
    gpt = {"architecture": {"family": "gpt"}, "objective": {"kind": "clm", "sentence_order": False}}
    plain = plain_settings(data, tmp_path / "out", **gpt)
    assert main(command(tmp_path, plain)[3:]) == 0
    from transformers import AutoTokenizer, GPT2LMHeadModel  # noqa: PLC0415 - importing it takes seconds

    folder = tmp_path / "out" / "gpt"
    theirs = GPT2LMHeadModel.from_pretrained(folder).eval()
    ours = build_model(job_of(data, tmp_path / "out", **gpt)).eval()
    ours.load_state_dict(weights(tmp_path / "out"))
    assert isinstance(ours, CausalLanguageModel)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.eos_token_id, *tokenizer("good phone 手机")["input_ids"]]
    with torch.no_grad():
        logits = theirs(input_ids=torch.tensor([ids])).logits[0]
        states = ours.trunk(pack(np.array(ids), np.array([len(ids)])))
        torch.testing.assert_close(states @ ours.trunk.word_embeddings.weight.T, logits, atol=1e-4, rtol=0)


def test_one_process_needs_no_ray(data: list[dict[str, Any]], tmp_path: Path) -> None:
    plain = plain_settings(data, tmp_path / "out", schedule={"max_steps": 1})
    path = command(tmp_path, plain)[3]
    code = (
        "import sys; sys.modules['ray'] = None\n"  # importing it raises
        f"from jobs.train.__main__ import main; sys.exit(main([{path!r}]))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=300).returncode == 0


def test_another_familys_trunk_is_trained_and_written(data: list[dict[str, Any]], tmp_path: Path) -> None:
    plain = plain_settings(data, tmp_path / "out", architecture={"family": "roberta"}, schedule={"max_steps": 2})
    assert main(command(tmp_path, plain)[3:]) == 0
    assert load_bundle(tmp_path / "out" / "bundle").spec.architecture.family == "roberta"


# --- from a bundle


def following(data: list[dict[str, Any]], output: Path, bundle: Path, **schedule: Any) -> dict[str, Any]:
    plain = plain_settings(data, output, schedule=schedule, objective={"sentence_order": False})
    return {**plain, "bundle": str(bundle), "tokenizer": {}, "architecture": {}}


@pytest.fixture(scope="module")
def parent_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("parents") / "tiny").folder


def test_a_run_goes_on_from_a_bundle(data: list[dict[str, Any]], parent_folder: Path, tmp_path: Path) -> None:
    still = {"max_steps": 1, "learning_rate": 1e-12, "matrix_learning_rate": 1e-12}
    assert main(command(tmp_path, following(data, tmp_path / "same", parent_folder, **still))[3:]) == 0
    same, parent = load_bundle(tmp_path / "same" / "bundle"), load_bundle(parent_folder)
    assert same.spec.architecture == parent.spec.architecture
    ours, theirs = (bundle.tokeniser.encode(["手机 is good"]).ids.tolist() for bundle in (same, parent))
    assert ours == theirs
    before = parent.tensors()
    for name, tensor in same.tensors().items():
        torch.testing.assert_close(tensor.float(), before[name].float(), atol=1e-3, rtol=1e-3)

    assert main(command(tmp_path, following(data, tmp_path / "moved", parent_folder, max_steps=40))[3:]) == 0
    moved = load_bundle(tmp_path / "moved" / "bundle")
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    assert not torch.allclose(moved.tensors()[name].float(), before[name].float(), atol=1e-2)
    curve = losses(tmp_path / "moved")
    assert np.mean([point[3] for point in curve[-8:]]) < 0.97 * curve[0][3]
    assert f"pretrained further from `{parent_folder}@{parent.digest}`" in (moved.folder / "README.md").read_text()


def test_a_run_from_another_bundle_does_not_go_on(
    data: list[dict[str, Any]], parent_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path, following(data, tmp_path / "out", parent_folder, max_steps=1))[3:]) == 0
    other = tiny_bundle(tmp_path / "other", seed=1).folder
    assert main(command(tmp_path, following(data, tmp_path / "out", other, max_steps=1))[3:]) == 2
    assert "bundle: " in capsys.readouterr().err


def test_a_bundle_with_too_few_positions_is_refused(
    data: list[dict[str, Any]], parent_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = {**following(data, tmp_path / "out", parent_folder), "architecture": {"max_length": 128}}
    assert main(command(tmp_path, longer)[3:]) == 2
    assert "architecture.max_length 128: bundle tiny@" in capsys.readouterr().err


def test_a_bundle_without_a_packed_trunk_is_refused(
    data: list[dict[str, Any]], parent_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    foreign = tmp_path / "foreign"
    BertModel(BertConfig(vocab_size=200, hidden_act="gelu_new", **sizes)).save_pretrained(foreign)
    PreTrainedTokenizerFast(tokenizer_file=str(parent_folder / TOKENIZER_FILE)).save_pretrained(foreign)
    assert main(command(tmp_path, following(data, tmp_path / "out", foreign, max_steps=1))[3:]) == 2
    assert "which has no packed trunk to train" in capsys.readouterr().err


# --- kills


def test_a_run_killed_anywhere_ends_with_the_same_bytes(
    data: list[dict[str, Any]], learnt: dict[str, str], tmp_path: Path
) -> None:
    shape = {"architecture": {"dropout": 0.1}, "tokenizer": learnt}
    sections = {"schedule": {"max_steps": 30, "accumulate": 2}, **shape}
    whole = plain_settings(data, tmp_path / "whole", **sections, checkpoint={"every_steps": 1})
    killed = {**whole, "output": str(tmp_path / "killed")}
    (tmp_path / "a").mkdir()
    assert subprocess.run(command(tmp_path / "a", whole), check=False, timeout=300).returncode == 0
    (tmp_path / "b").mkdir()
    for after in (1, 9):
        kill_after(command(tmp_path / "b", killed), tmp_path / "killed" / "checkpoints", after)
    at_kill = checkpoints.newest(open_store(str(tmp_path / "killed" / "checkpoints")))
    assert at_kill is not None
    assert at_kill.step < 30
    assert subprocess.run(command(tmp_path / "b", killed), check=False, timeout=300).returncode == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 30
    expected = weights(tmp_path / "whole")
    for name, tensor in weights(tmp_path / "killed").items():
        assert torch.equal(tensor, expected[name]), name


def kill_after(arguments: list[str], folder: Path, step: int) -> None:
    """Run until a checkpoint of `step` or later begins to stand in the folder, then kill."""
    process = subprocess.Popen(arguments, start_new_session=True)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        steps = [int(path.name.removeprefix("step-")) for path in folder.glob("step-*")]
        if steps and max(steps) >= step:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return
        time.sleep(0.002)
    raise AssertionError(f"it ended, or made no checkpoint of step {step}, before it could be killed")


def test_a_finished_run_only_writes_its_result_again(data: list[dict[str, Any]], tmp_path: Path) -> None:
    plain = plain_settings(data, tmp_path / "out", schedule={"max_steps": 3})
    assert main(command(tmp_path, plain)[3:]) == 0
    first = (tmp_path / "out" / "bundle" / "model.safetensors").read_bytes()
    stamp = (tmp_path / "out" / "curve.csv").stat().st_mtime_ns
    assert main(command(tmp_path, plain)[3:]) == 0
    assert (tmp_path / "out" / "bundle" / "model.safetensors").read_bytes() == first
    assert (tmp_path / "out" / "curve.csv").stat().st_mtime_ns == stamp


# --- bad input


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(
    data: list[dict[str, Any]], tmp_path: Path
) -> None:
    job = job_of(data, tmp_path / "out", checkpoint={"every_steps": 2})
    trainer = Trainer(job, Crew(0, 1, CPU))
    take = trainer._take

    def breaks(number: int, inputs: Any) -> dict[str, float]:
        if number == 5:
            with torch.no_grad():
                trainer._spread.model.trunk.word_embeddings.weight[0, 0] = torch.nan
        return take(number, inputs)

    trainer._take = breaks  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="at step 6 the loss is nan"):
        trainer.run()
    found = checkpoints.newest(open_store(str(tmp_path / "out" / "checkpoints")))
    assert found is not None
    assert found.step == 4
    assert all(tensor.isfinite().all() for tensor in found.model_tensors().values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": {"clip": 3.0}}, "schedule.clip: 1.0, now 3.0"),
        ({"architecture": {"hidden_size": 32}}, "architecture.hidden_size: 16, now 32"),
        ({"tokenizer": {"use": "other.json"}}, "the tokenizer isn't the one it was trained with"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(  # noqa: PLR0917 - fixtures
    data: list[dict[str, Any]],
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = plain_settings(data, tmp_path / "out", schedule={"max_steps": 1})
    assert main(command(tmp_path, plain)[3:]) == 0
    text = (tmp_path / "out" / "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "other.json").write_text(text.replace('"phone"', '"phoney"'), encoding="utf-8")
    other = plain_settings(data, tmp_path / "out", **{"schedule": {"max_steps": 1}, **changes})
    other["schedule"] = {**plain["schedule"], **changes.get("schedule", {})}
    assert main(command(tmp_path, other)[3:]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", "isn't a tokenizer"), (None, "there is no"), ("no mask", "the tokenizer has no mask token")],
)
def test_a_tokenizer_that_cannot_be_used_is_refused(
    data: list[dict[str, Any]],
    tmp_path: Path,
    content: str | None,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "tokenizer.json"
    if content == "no mask":
        job = job_of(data, tmp_path / "first")
        path.write_text(job.tokenizer.replace("[MASK]", "[COVER]"), encoding="utf-8")
    elif content is not None:
        path.write_text(content, encoding="utf-8")
    plain = plain_settings(data, tmp_path / "out", tokenizer={"use": str(path)})
    assert main(command(tmp_path, plain)[3:]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- several workers


def in_crew(job: Job, size: int, folder: Path) -> None:
    """Train with processes of this machine, without Ray."""
    multiprocessing.spawn(crew_member, (size, job, str(folder / "meeting")), nprocs=size)  # type: ignore[no-untyped-call]


def assert_near(ones: list[tuple[float, ...]], others: list[tuple[float, ...]]) -> None:
    assert [one[:2] for one in ones] == [other[:2] for other in others]
    found, expected = np.array(ones)[:, 2:], np.array(others)[:, 2:]
    np.testing.assert_allclose(found[0], expected[0], rtol=2e-5)  # losses and gradient before any step
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=1e-3)  # steps in bf16 (Muon) magnify last bits


@pytest.fixture(scope="module")
def alone(data: list[dict[str, Any]], learnt: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one worker."""
    output = tmp_path_factory.mktemp("alone")
    Trainer(job_of(data, output, tokenizer=learnt), Crew(0, 1, CPU)).run()
    return output


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_workers_learn_what_one_learns(
    data: list[dict[str, Any]], learnt: dict[str, str], tmp_path: Path, sharding: str
) -> None:
    smooth = {"tokenizer": learnt, "schedule": {"optimizer": "adamw"}}  # Muon's steps in bf16 magnify last bits
    Trainer(job_of(data, tmp_path / "one", **smooth), Crew(0, 1, CPU)).run()
    in_crew(job_of(data, tmp_path / "two", workers=2, sharding=sharding, **smooth), 2, tmp_path)
    assert_near(losses(tmp_path / "two"), losses(tmp_path / "one"))
    expected = weights(tmp_path / "one")
    for name, tensor in weights(tmp_path / "two").items():
        assert float((tensor - expected[name]).norm()) < 1e-3 * float(expected[name].norm()) + 1e-4, name


def test_accumulated_passes_learn_what_one_pass_learns(
    data: list[dict[str, Any]], learnt: dict[str, str], alone: Path, tmp_path: Path
) -> None:
    Trainer(job_of(data, tmp_path, tokenizer=learnt, schedule={"accumulate": 3}), Crew(0, 1, CPU)).run()
    assert_near(losses(tmp_path), losses(alone))


def test_a_spread_run_goes_on_with_another_number_of_workers(
    data: list[dict[str, Any]], learnt: dict[str, str], alone: Path, tmp_path: Path
) -> None:
    job = job_of(data, tmp_path, tokenizer=learnt, workers=2, sharding="fsdp")
    in_crew(job, 2, tmp_path)
    newest = max((tmp_path / "checkpoints").iterdir())
    for path in newest.iterdir():
        path.unlink()
    Trainer(job_of(data, tmp_path, tokenizer=learnt), Crew(0, 1, CPU)).run()
    points: list[Point] = read_curve(open_store(str(tmp_path)))
    assert [point.step for point in points] == list(range(1, 13))
    assert_near(losses(tmp_path), losses(alone))


@pytest.mark.ray
def test_ray_train_gives_what_one_process_gives(
    data: list[dict[str, Any]], learnt: dict[str, str], alone: Path, tmp_path: Path, ray_address: str
) -> None:
    plain = plain_settings(data, tmp_path / "out", tokenizer=learnt, workers=2, ray_address=ray_address)
    done = subprocess.run(command(tmp_path, plain), check=False, timeout=500, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert load_bundle(tmp_path / "out" / "bundle").spec.name == "pretrained"
    assert_near(losses(tmp_path / "out"), losses(alone))


@pytest.mark.ray
def test_more_workers_than_the_cluster_has_room_for_are_refused(
    data: list[dict[str, Any]], tmp_path: Path, ray_address: str
) -> None:
    plain = plain_settings(data, tmp_path / "out", workers=5, ray_address=ray_address)
    done = subprocess.run(command(tmp_path, plain), check=False, timeout=300, capture_output=True, text=True)
    assert done.returncode == 2
    assert "workers is 5, but the cluster has room for 2" in done.stderr
