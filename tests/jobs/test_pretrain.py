"""Pretraining, part by part: settings, networks, optimizer, checkpoints, curve."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch.nn import functional

from cluster.config import SettingsError, load_config
from cluster.stores import Store, open_store
from jobs.train import checkpoints
from jobs.train.curves import Curve, Point, read_curve
from jobs.train.gpt import Gpt
from jobs.train.muon import Muon, orthogonal
from jobs.train.networks import UNKNOWN_ORDER, CausalLanguageModel, Inputs, MaskedLanguageModel
from jobs.train.optim import Optimizer, share_of
from jobs.train.pretrain_settings import PretrainError, PretrainSettings
from jobs.train.recipe import check_recipe, recipe_of
from jobs.train.tokenizer import train_tokenizer
from jobs.train.word_loss import word_loss
from jobs.train.work import training_flops
from models.architecture import Architecture
from models.forward import DTYPES
from models.packing import pack
from tests.jobs import pretrain_fixtures
from tests.jobs.pretrain_fixtures import settings

DEFAULTS = Path(__file__).parents[2] / "jobs" / "train" / "pretrain.yaml"
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
tokenizer = pretrain_fixtures.tokenizer


def arch(vocab_size: int = 40) -> Architecture:
    return Architecture(vocab_size=vocab_size, max_position_embeddings=32, **SHAPE)


# --- settings


def test_the_documented_defaults_are_the_defaults() -> None:
    given = ["data=x.txt", "output=out/x"]
    assert load_config(DEFAULTS, given, PretrainSettings) == PretrainSettings.model_validate(
        {"data": "x.txt", "output": "out/x"}
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": {"family": "gpt"}}, "a gpt can't learn objective.kind 'mlm': it learns 'clm'"),
        ({"objective": {"kind": "clm"}}, "a megatron-bert can't learn objective.kind 'clm': it learns 'mlm'"),
        (
            {"architecture": {"family": "gpt"}, "objective": {"kind": "clm", "sentence_order": True}},
            "sentence_order goes with objective.kind mlm",
        ),
        ({"objective": {"kind": "mim"}}, "objective.kind: Input should be 'mlm' or 'clm'"),
        ({"sharding": "fsdp"}, "workers must be over 1"),
        ({"workers": 4, "schedule": {"accumulate": 4}}, "is 16 tokens a pass, under architecture.max_length 32"),
        ({"architecture": {"num_attention_heads": 3}}, "must be a multiple of num_attention_heads 3"),
        ({"shedule": {}}, "unknown key shedule: did you mean schedule"),
        ({"bundle": "starter"}, "with bundle starter, tokenizer.vocab_size is the bundle's: leave it out"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings([{"input": "x.txt"}], tmp_path, **changes)


# --- networks


def test_fused_loss_is_cross_entropy_with_its_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(word_loss.__globals__["_SLICE"], "cpu", 16 * 50)
    torch.manual_seed(0)
    state, words, bias = (torch.randn(*shape, requires_grad=True) for shape in ((37, 8), (50, 8), (50,)))
    targets = torch.randint(0, 50, (37,))
    parts = [word_loss(state, words, bias, targets) * 0.5]
    parts.append(functional.cross_entropy(functional.linear(state, words, bias), targets, reduction="sum") * 0.5)
    fused, plain = (torch.autograd.grad(part, (state, words, bias)) for part in parts)
    assert float(parts[0].detach()) == pytest.approx(float(parts[1].detach()), rel=1e-6)
    for ours, theirs in zip(fused, plain, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_pass_without_words_has_gradients_of_nothing() -> None:
    state, words = torch.randn(0, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    loss = word_loss(state, words, None, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert words.grad is not None
    assert not words.grad.any()


def inputs_of(ids: list[int], lengths: list[int]) -> Inputs:
    batch = pack(np.array(ids), np.array(lengths))
    return Inputs(batch, torch.tensor([0]), torch.tensor([1]), torch.zeros(len(ids), dtype=torch.int64))


def test_a_gpt_looks_back_only_and_at_its_own_text() -> None:
    torch.manual_seed(0)
    gpt = Gpt(arch()).eval()
    with torch.no_grad():
        states = gpt(inputs_of([5, 6, 7, 8, 9, 9], [4, 2]).batch)
        later = gpt(inputs_of([5, 6, 7, 30, 9, 9], [4, 2]).batch)
        alone = gpt(inputs_of([9, 9], [2]).batch)
    torch.testing.assert_close(states[:3], later[:3])
    assert not torch.allclose(states[3], later[3])
    torch.testing.assert_close(states[4:], alone)


def test_token_types_reach_the_states() -> None:
    torch.manual_seed(0)
    model = MaskedLanguageModel(arch(), 0.0, has_order=True).eval()
    one = inputs_of([2, 7, 3, 8, 3], [5])
    assert one.types is not None
    with torch.no_grad():
        plain = model.trunk(one.batch)
        assert torch.equal(model.trunk(one.batch, one.types), plain)
        assert not torch.allclose(model.trunk(one.batch, torch.tensor([0, 0, 0, 1, 1])), plain)


def test_unknown_orders_cost_nothing_but_have_gradients() -> None:
    model = MaskedLanguageModel(arch(), 0.0, has_order=True)
    one = inputs_of([2, 7, 3], [3])
    sums = model(Inputs(one.batch, one.places, one.targets, one.types, torch.tensor([UNKNOWN_ORDER])))
    sums.sum().backward()
    assert float(sums[1].detach()) == 0.0
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_operations_of_a_step_by_hand() -> None:
    one = Architecture(vocab_size=10, max_position_embeddings=32, **{**SHAPE, "num_hidden_layers": 1})
    layer = 2 * (4 * 16 * 16 + 2 * 16 * 32) * 6 + 4 * 16 * 18
    assert training_flops(one, 6, 18, 2, is_causal=False) == 3 * (layer + 2 * 16 * 16 * 2 + 2 * 16 * 10 * 2)
    assert training_flops(one, 6, 18, 2, is_causal=True) == 3 * (layer - 4 * 16 * 9 + 2 * 16 * 10 * 2)


# --- optimizer


@pytest.mark.parametrize("shape", [(48, 16), (16, 16), (16, 64)])
def test_muon_in_batches_is_muon(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours, theirs = ([torch.nn.Parameter(torch.randn(shape)) for _ in range(3)] for _ in range(2))
    for own, other in zip(ours, theirs, strict=True):
        other.data.copy_(own.data)
    muon = Muon([{"params": ours[:1], "lr": 0.01}, {"params": ours[1:], "lr": 0.02}])
    reference = torch.optim.Muon(
        [{"params": theirs[:1], "lr": 0.01}, {"params": theirs[1:], "lr": 0.02}], momentum=0.95, weight_decay=0.0
    )
    for _ in range(3):
        for own, other in zip(ours, theirs, strict=True):
            own.grad = torch.randn(shape)
            other.grad = own.grad.clone()
        muon.step()
        reference.step()
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, atol=1e-3, rtol=0)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])  # of machines with bf16 in hardware and without
def test_steps_are_nearly_orthogonal(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.train.muon.choose_precision", lambda *_args, **_more: precision)
    torch.manual_seed(0)
    for shape in ((2, 64, 16), (2, 16, 64)):
        found = orthogonal(torch.randn(shape))
        assert found.dtype == DTYPES[precision]
        scales = torch.linalg.svdvals(found.float())
        assert 0.6 < float(scales.min()) <= float(scales.max()) < 1.3


# --- checkpoints


def trained(seed: int = 0, vocab_size: int = 40) -> tuple[CausalLanguageModel, Optimizer]:
    torch.manual_seed(seed)
    model = CausalLanguageModel(arch(vocab_size), 0.0)
    optimizer = Optimizer([share_of(model.parameters(), model.trunk.layers)], 0.01, 0.02)
    model(inputs_of([5, 6, 7], [3])).sum().backward()
    optimizer.step(1.0)
    return model, optimizer


def put(store: Store, step: int, max_bytes: int = 2**20, model: Any = None) -> tuple[CausalLanguageModel, Optimizer]:
    network, optimizer = model or trained()
    tensors = checkpoints.state_tensors(network, optimizer, lambda whole: whole)
    checkpoints.save(store, step, {"seed": 0}, tensors, max_bytes)
    return network, optimizer


def newest(store: Store) -> checkpoints.Checkpoint:
    found = checkpoints.newest(store)
    assert found is not None
    return found


@pytest.mark.parametrize("max_bytes", [2**20, 4096, 1024])
def test_checkpoints_come_back_whole_from_files_under_the_limit(tmp_path: Path, max_bytes: int) -> None:
    store = open_store(str(tmp_path))
    model, optimizer = put(store, 7, max_bytes)
    parts = [path.stat().st_size for path in tmp_path.rglob("part-*")]
    assert max(parts) <= max_bytes
    again, other = trained(seed=1)
    found = newest(store)
    assert found.step == 7
    found.load(again, other)
    for name, tensor in checkpoints.state_tensors(model, optimizer, lambda whole: whole):
        mine = dict(checkpoints.state_tensors(again, other, lambda whole: whole))[name]
        assert torch.equal(mine, tensor), name


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    put(store, 7)
    (part,) = tmp_path.rglob("part-000.safetensors")
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    with pytest.raises(PretrainError, match=r"part-000.safetensors is damaged: sha256 .* remove the folder"):
        newest(store).load(*trained())


def test_a_tensor_of_another_shape_is_named_with_both(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    put(store, 7)
    with pytest.raises(PretrainError, match=r"trunk.word_embeddings.weight has shape \(40, 16\), expected \(48, 16\)"):
        newest(store).load(*trained(vocab_size=48))


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    put(store, 7)
    path = tmp_path / "step-00000007" / "checkpoint.json"
    plain = json.loads(path.read_text())
    del plain["shapes"]["model.trunk.norm.bias"]
    path.write_text(json.dumps(plain))
    with pytest.raises(PretrainError, match=r"lacks the tensor trunk.norm.bias \(16,\)"):
        newest(store).load(*trained())


def test_a_checkpoint_without_its_last_file_is_none(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert checkpoints.newest(store) is None
    put(store, 4)
    put(store, 8)
    (tmp_path / "step-00000008" / "checkpoint.json").unlink()
    assert newest(store).step == 4
    put(store, 12)
    put(store, 16)
    checkpoints.prune(store, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000012", "step-00000016"]


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    store = open_store(str(tmp_path))
    one = settings([{"input": "x.txt"}], tmp_path)
    checkpoints.save(store, 1, recipe_of(one, tokenizer, "chance"), iter([("model.x", torch.zeros(1))]), 2**20)
    check_recipe(newest(store), recipe_of(settings([{"input": "x.txt"}], tmp_path, workers=2), tokenizer, "chance"))
    other = settings([{"input": "x.txt"}], tmp_path, schedule={"clip": 2.0})
    strange = train_tokenizer(["a b c"], 64)
    with pytest.raises(PretrainError, match=r"(?s)schedule.clip: 1.0, now 2.0.*tokenizer isn't the one it was trained"):
        check_recipe(newest(store), recipe_of(other, strange, "chance"))


# --- curve


def test_a_curve_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    points = [Point(step, 100, 1 / 3, 1 / 3, 0.0, math.pi, 0.01, 5.0, 0.1) for step in (1, 2, 3)]
    curve = Curve(store, 0)
    for point in points:
        curve.add(point)
    curve.put()
    again = Curve(store, 2)
    again.put()
    assert read_curve(store) == points[:2]
