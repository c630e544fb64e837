"""Adapters: they learn without the trunk, are merged to what training computed, and need their base. Seconds."""

from __future__ import annotations

import csv
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.finetune.__main__ import main
from jobs.finetune.adapters import adapter_tensors
from jobs.finetune.device import choose_device
from jobs.finetune.heads import LearntHead
from jobs.finetune.settings import FinetuneError, FinetuneSettings, HeadSettings
from jobs.finetune.tuner import Tuner, build_tuner
from models.adapters import merge
from models.architecture import Architecture
from models.bundle import TOKENIZER_FILE, WEIGHTS_FILE, Bundle, BundleError, load_bundle, save_bundle
from models.fetch import fetch
from models.heads import HeadSpec
from models.packing import PackedBatch, pack
from models.scorer import Scorer
from tests.tiny import tiny_bundle

HEAD = HeadSpec(name="topic", labels=("food", "staff", "price"), pooling="mean")
TEXTS = ["nice food", "the staff was slow", "贵", "很好 很好 很好"]


@pytest.fixture
def parent(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "tiny")


def tuner_of(parent: Bundle, rank: int | None = 2) -> Tuner:
    torch.manual_seed(0)
    heads = [LearntHead(HEAD, HeadSettings(), "test", is_known=False)]
    return build_tuner(parent, heads, 0.0, is_frozen=False, rank=rank).eval()


def moved(tuner: Tuner) -> Tuner:
    """As if it had been trained."""
    generator = torch.Generator().manual_seed(1)
    for parameter in tuner.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data + 0.3 * torch.randn(parameter.shape, generator=generator)
            parameter.data = parameter.data.half().float()
    return tuner


def saved(tuner: Tuner, parent: Bundle, folder: Path) -> Bundle:
    folder.mkdir()
    shutil.copyfile(parent.folder / TOKENIZER_FILE, folder / TOKENIZER_FILE)
    tensors = {n: t.half().contiguous() for n, t in (tuner.trunk_tensors() | tuner.head_tensors()).items()}
    heads = (HEAD, *parent.spec.heads)
    spec = parent.spec.model_copy(
        update={"name": "mine", "heads": heads, "base": f"{parent.folder}@{parent.digest}", "files": {}}
    )
    return save_bundle(folder, spec, tensors, "")


def outputs(tuner: Tuner, parent: Bundle) -> np.ndarray:
    tokens = parent.tokeniser.encode(TEXTS)
    with torch.inference_mode():
        return torch.softmax(tuner(pack(tokens.ids, tokens.lengths))[0], dim=1).numpy()


def probs(bundle: Bundle) -> np.ndarray:
    table = Scorer(bundle, token_budget=64).score(bundle.tokeniser.encode(TEXTS))
    return np.stack([table[name].to_numpy() for name in HEAD.prob_columns], axis=1)


def test_fresh_adapters_change_nothing(parent: Bundle) -> None:
    np.testing.assert_array_equal(outputs(tuner_of(parent), parent), outputs(tuner_of(parent, rank=None), parent))


def test_only_adapters_and_heads_learn(parent: Bundle) -> None:
    tuner = tuner_of(parent)
    learning = [p for share in tuner.shares(0.9) for p in (*share.matrices, *share.rest)]
    expected = 2 * (2 * (32 + 96) + 2 * (32 + 32) + 2 * 2 * (32 + 64)) + 3 * 33
    assert sum(p.numel() for p in learning) == expected
    tokens = parent.tokeniser.encode(TEXTS)
    tuner(pack(tokens.ids, tokens.lengths))[0].square().sum().backward()
    reached = {name for name, p in tuner.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert reached == {n for n, p in tuner.named_parameters() if p.requires_grad and not n.endswith(".down")}


def test_the_merged_bundle_scores_as_training_did(parent: Bundle, tmp_path: Path) -> None:
    tuner = moved(tuner_of(parent))
    bundle = saved(tuner, parent, tmp_path / "mine")
    expected = outputs(tuner, parent)
    np.testing.assert_allclose(probs(bundle), expected, atol=1e-5, rtol=0)
    assert np.abs(expected - outputs(tuner_of(parent), parent)).max() > 0.1
    sent = pickle.loads(pickle.dumps(bundle))  # noqa: S301 - our own bytes
    np.testing.assert_array_equal(probs(sent), probs(fetch(str(tmp_path / "mine"))))
    assert (bundle.folder / WEIGHTS_FILE).stat().st_size < (parent.folder / WEIGHTS_FILE).stat().st_size / 4


def test_the_bases_heads_are_there(parent: Bundle, tmp_path: Path) -> None:
    bundle = saved(tuner_of(parent), parent, tmp_path / "mine")
    tokens = parent.tokeniser.encode(TEXTS)
    ours, theirs = (Scorer(one, token_budget=64).score(tokens) for one in (bundle, parent))
    assert ours.select(theirs.column_names).equals(theirs)


def test_a_head_of_its_own_replaces_all_of_the_bases(parent: Bundle) -> None:
    arch = parent.spec.architecture
    assert isinstance(arch, Architecture)
    base = parent.tensors() | {"heads.stars.dense.weight": torch.ones(1)}
    own = {"heads.stars.weight": torch.zeros(2, 32), "heads.stars.bias": torch.zeros(2)}
    merged = merge(arch, base, own)
    assert sorted(name for name in merged if name.startswith("heads.stars")) == [
        "heads.stars.bias",
        "heads.stars.weight",
    ]
    assert torch.equal(merged["heads.sentiment.weight"], base["heads.sentiment.weight"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"adapters.layers.0.up.down": torch.zeros(2, 31)}, r"adapters.layers.0.up of shapes \(64, 2\) and \(2, 31\)"),
        ({"adapters.layers.7.up.down": torch.zeros(2, 32)}, r"adapters.layers.7.up of .* base's matrix None"),
    ],
)
def test_adapters_that_do_not_fit(parent: Bundle, changed: dict[str, torch.Tensor], message: str) -> None:
    own = adapter_tensors(tuner_of(parent).trunk) | changed
    arch = parent.spec.architecture
    assert isinstance(arch, Architecture)
    with pytest.raises(ValueError, match=message):
        merge(arch, parent.tensors(), own)


def test_another_base_is_refused(parent: Bundle, tmp_path: Path) -> None:
    bundle = saved(tuner_of(parent), parent, tmp_path / "mine")
    shutil.rmtree(parent.folder)
    with pytest.raises(
        BundleError, match=r"mine is made of adapters to .*tiny@.*, which can't be had: .*isn't a folder"
    ):
        load_bundle(bundle.folder)
    other = tiny_bundle(parent.folder, seed=1)
    with pytest.raises(BundleError, match=f"has digest {other.digest}, but {parent.digest} was asked for"):
        load_bundle(bundle.folder)


def test_a_plain_bundle_does_not_speak_of_a_base(parent: Bundle) -> None:
    assert "base" not in (parent.folder / "bundle.yaml").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_command(parent: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    words = {"food": ["soup", "rice"], "staff": ["waiter", "clerk"]}
    rows = [(f"the {rng.choice(words[t])} was {rng.integers(100)}", t) for t in ("food", "staff") * 150]
    with (tmp_path / "my.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    given = [
        f"bundle={parent.folder}",
        f"output={tmp_path / 'out'}",
        f"input={tmp_path / 'my.csv'}",
        "adapter={rank: 4}",
    ]
    given += ["keep_heads=true", "threads=1", "precision=fp32", "baseline=false", "method=finetune"]
    given += ["schedule.learning_rate=0.02", "schedule.epochs=12", "schedule.token_budget=256"]
    monkeypatch.setattr(sys, "argv", ["finetune", *given])
    assert main() == 0
    bundle = fetch(str(tmp_path / "out"))
    assert bundle.base == parent
    assert [head.name for head in bundle.spec.heads] == ["label", "sentiment", "stars"]
    scores = Scorer(bundle, token_budget=512).score(bundle.tokeniser.encode(["the soup was 7", "the clerk was 31"]))
    assert scores["label"].to_pylist() == ["food", "staff"]


def test_adapters_and_a_frozen_trunk_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="choose one"):
        FinetuneSettings.model_validate(
            {"input": "a.csv", "output": "o", "adapter": {"rank": 2}, "schedule": {"freeze_trunk": True}}
        )


# --- where it computes


class ReachedTrunkError(Exception):
    """Ends a pass where the trunk gets its batch; says on which device that is."""


def test_batches_go_to_the_trunks_device(parent: Bundle) -> None:
    """`meta` stands for a GPU; as it computes nothing, the pass ends at the trunk."""

    def stop(_: torch.nn.Module, given: tuple[PackedBatch]) -> None:
        raise ReachedTrunkError(given[0].input_ids.device.type)

    tuner = tuner_of(parent, rank=None).to("meta")
    tuner.trunk.register_forward_pre_hook(stop)
    tokens = parent.tokeniser.encode(TEXTS)
    batch = pack(tokens.ids, tokens.lengths)
    for run in (tuner, lambda own: tuner.pooled(own, "mean")):
        with pytest.raises(ReachedTrunkError, match=r"^meta$"):
            run(batch)


def test_the_device_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [choose_device(asked).type for asked in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [choose_device(asked).type for asked in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(FinetuneError, match=r"device is cuda, but torch .* sees no GPU on this machine"):
        choose_device("cuda")
