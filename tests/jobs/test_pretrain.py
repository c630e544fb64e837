"""Pretraining, part by part: settings, documents, words, the noise of a step, losses, optimizer, checkpoints."""

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
from jobs.train.documents import plan_slices, read_documents
from jobs.train.encoding import BEGINS, GOES_ON, ID, choose_words, encode_documents
from jobs.train.gpt import Gpt
from jobs.train.muon import Muon, orthogonal
from jobs.train.networks import UNKNOWN_ORDER, CausalLanguageModel, Inputs, MaskedLanguageModel
from jobs.train.optim import Optimizer, share_of
from jobs.train.plan import plan_steps
from jobs.train.pretrain_settings import ObjectiveSettings, PretrainError, PretrainSettings
from jobs.train.recipe import check_recipe, recipe_of
from jobs.train.sequences import Composer, cut_pieces
from jobs.train.tokenizer import train_tokenizer
from jobs.train.tokens import TokenStore, make_tokens
from jobs.train.word_loss import word_loss
from jobs.train.work import training_flops
from models.architecture import Architecture
from models.packing import pack
from tests.jobs.pretrain_fixtures import documents, settings, write_corpus

DEFAULTS = Path(__file__).parents[2] / "jobs" / "train" / "pretrain.yaml"
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CPU = torch.device("cpu")


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
    ],
)
def test_settings_that_cannot_be_meant_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings([{"input": "x.txt"}], tmp_path, **changes)


# --- documents


def test_every_format_is_read_and_masked(tmp_path: Path) -> None:
    data = write_corpus(tmp_path)
    (tmp_path / "c.txt").write_text("one 13812345678\n\n  \nＴＷＯ\n", encoding="utf-8")
    slices = plan_slices(settings(data, tmp_path).data)
    assert [one.source for one in slices] == [0, 1, 2]
    assert list(read_documents(slices[2])) == ["one [PHONE]", "TWO"]
    assert len(list(read_documents(slices[1]))) == 60
    assert list(read_documents(slices[0])) == documents(120, 1)


def test_sources_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    data = write_corpus(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        plan_slices(settings([{"input": str(tmp_path / "nowhere.txt")}], tmp_path).data)
    with pytest.raises(ValueError, match="no column 'text'"):
        plan_slices(settings([{**data[1], "text": "text"}], tmp_path).data)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(PretrainError, match="all 1 files are empty"):
        plan_slices(settings([{"input": str(tmp_path / "empty.txt")}], tmp_path).data)


def write_parts(path: Path, num: int) -> dict[str, Any]:
    """A source of which every fourth document is of the part dev."""
    parts = ["dev" if number % 4 == 0 else "train" for number in range(num)]
    rows = zip(documents(num, 5), parts, strict=True)
    path.write_text("\n".join(json.dumps({"text": text, "part": part}) for text, part in rows), encoding="utf-8")
    return {"input": str(path), "split": {"column": "part", "value": "train"}}


def test_of_a_split_only_the_rows_of_its_value_are_read(tmp_path: Path) -> None:
    source = write_parts(tmp_path / "parts.jsonl", 40)
    (one,) = plan_slices(settings([source], tmp_path).data)
    assert list(read_documents(one)) == [text for number, text in enumerate(documents(40, 5)) if number % 4]
    (every,) = plan_slices(settings([{"input": source["input"]}], tmp_path).data)
    assert list(read_documents(every)) == documents(40, 5)


def test_tokens_of_another_split_are_made_anew(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source, store, numbers = write_parts(tmp_path / "parts.jsonl", 40), open_store(str(tmp_path)), []
    for split in ({"column": "part", "value": "train"}, {"column": "part", "value": "dev"}, None):
        slices = plan_slices(settings([{**source, "split": split}], tmp_path).data)
        tokens = TokenStore(make_tokens(store, slices, tokenizer, "chance", on_ray=False))
        numbers.append(sum(shard.num_documents for shard in tokens.shards))
    assert numbers == [30, 10, 40]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"column": "part", "value": "trian"}, "no row of .* has 'trian' in 'part'"),
        ({"column": "prat"}, "no column 'prat'; did you mean 'part'"),
    ],
)
def test_a_split_that_no_row_is_of_is_refused(tmp_path: Path, split: dict[str, str], message: str) -> None:
    source = {**write_parts(tmp_path / "parts.jsonl", 8), "split": split}
    with pytest.raises(ValueError, match=message):
        plan_slices(settings([source], tmp_path).data)


def test_plain_text_has_no_split(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("one\n", encoding="utf-8")
    with pytest.raises(PretrainError, match="is plain text: it has no column 'split'"):
        plan_slices(settings([{"input": str(tmp_path / "c.txt"), "split": {}}], tmp_path).data)


# --- words


def marks(tokenizer: Tokenizer, words: str, text: str) -> list[tuple[str, bool, bool]]:
    (marked,) = encode_documents(tokenizer, words, [text])  # type: ignore[arg-type]
    return [(tokenizer.id_to_token(int(one & ID)), bool(one & GOES_ON), bool(one & BEGINS)) for one in marked]


def test_pieces_go_on_words_and_sentences_begin() -> None:
    tokenizer = train_tokenizer(["ab ab ab ac c ."] * 9, 64)
    assert marks(tokenizer, "chance", "ab abc. c") == [
        ("ab", False, True),
        ("ab", False, False),
        ("##c", True, False),
        (".", False, False),
        ("c", False, True),
    ]


def test_jieba_joins_the_characters_of_a_word() -> None:
    pytest.importorskip("jieba")
    tokenizer = train_tokenizer(["手机 屏幕 很 好 ok"] * 9, 64)
    found = marks(tokenizer, "jieba", "手机屏幕很好 ok")
    assert [goes_on for _, goes_on, _ in found[:4]] == [False, True, False, True]
    assert found[-1][1] is False
    assert not any(goes_on for _, goes_on, _ in marks(tokenizer, "chance", "手机屏幕很好 ok"))


def test_jieba_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert choose_words("auto") == "chance"
    with pytest.raises(PretrainError, match=r"verbatim\[train\]"):
        choose_words("jieba")


# --- sequences


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(documents(200, 1), 150, ("<|endoftext|>",))


@pytest.fixture(scope="module")
def tokens(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    folder = tmp_path_factory.mktemp("tokens")
    slices = plan_slices(settings(write_corpus(folder / "data"), folder).data)
    return TokenStore(make_tokens(open_store(str(folder)), slices, tokenizer, "chance", on_ray=False))


def composed(
    tokens: TokenStore, tokenizer: Tokenizer, objective: dict[str, Any], num_passes: int = 1, mine: slice | None = None
) -> list[Inputs]:
    own = ObjectiveSettings(**objective)
    pieces = cut_pieces(tokens, 32, 3)
    composer = Composer(tokens, pieces, own, tokenizer, "chance")
    rows = np.arange(0, len(pieces.lengths), 9)
    return composer.compose(rows, np.random.default_rng(3), mine or slice(None), num_passes, grouped=True).passes


def test_pieces_hold_every_token_once(tokens: TokenStore) -> None:
    pieces = cut_pieces(tokens, 32, 3)
    assert int(pieces.size.sum()) == tokens.num_tokens
    assert int(pieces.lengths.max()) <= 32
    assert int(pieces.is_end.sum()) == 220
    read = np.concatenate([tokens.read(0, int(b), int(s)) for b, s in zip(pieces.begin, pieces.size, strict=True)][:50])
    begin = 1 + tokens.shards[0].num_documents
    np.testing.assert_array_equal(read, tokens.read(0, begin, len(read)))


def test_a_weight_is_how_often_an_epoch_reads_a_source(tokens: TokenStore) -> None:
    pieces = cut_pieces(tokens, 32, 3)
    rows = np.concatenate(plan_steps(pieces, {"0": 1.0, "1": 0.5, "2": 2.0}, 1, 256, seed=1))
    counts = [int((pieces.source == source).sum()) for source in range(3)]
    found = [int((pieces.source[rows] == source).sum()) for source in range(3)]
    assert found == [counts[0], round(counts[1] / 2), 2 * counts[2]]


def test_segments_have_types_and_an_order(tokens: TokenStore, tokenizer: Tokenizer) -> None:
    (inputs,) = composed(tokens, tokenizer, {"sentence_order": True})
    assert inputs.orders is not None
    assert inputs.types is not None
    assert set(inputs.orders.tolist()) == {UNKNOWN_ORDER, 0, 1}
    last = tokenizer.token_to_id("[SEP]")
    for begin, end, order in zip(inputs.batch.starts, inputs.batch.bounds[1:], inputs.orders, strict=True):
        types, ids = inputs.types[begin:end].tolist(), inputs.batch.input_ids[begin:end].tolist()
        assert types == sorted(types)
        assert (1 in types) == (order != UNKNOWN_ORDER)
        assert ids.count(last) == 1 + (1 in types)
        assert ids[0] == tokenizer.token_to_id("[CLS]")
        if 1 in types:
            assert ids[types.index(1) - 1] == last


def test_hidden_words_are_told_as_they_were(tokens: TokenStore, tokenizer: Tokenizer) -> None:
    (inputs,) = composed(tokens, tokenizer, {"mask_rate": 0.4})
    share = len(inputs.places) / inputs.batch.num_tokens
    assert 0.25 < share < 0.45
    hidden = inputs.batch.input_ids[inputs.places]
    assert 0.6 < float((hidden == tokenizer.token_to_id("[MASK]")).float().mean()) < 0.95
    special = {tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]", "[MASK]")}
    assert special.isdisjoint(inputs.targets.tolist())


def test_next_words_are_the_next_tokens(tokens: TokenStore, tokenizer: Tokenizer) -> None:
    (inputs,) = composed(tokens, tokenizer, {"kind": "clm"})
    end = tokenizer.token_to_id("<|endoftext|>")
    assert inputs.places.tolist() == list(range(inputs.batch.num_tokens))
    for begin, stop in zip(inputs.batch.starts, inputs.batch.bounds[1:], strict=True):
        read, told = inputs.batch.input_ids[begin:stop].tolist(), inputs.targets[begin:stop].tolist()
        assert read[0] == end
        assert read[1:] == told[:-1]
    assert (inputs.targets == end).any()


@pytest.mark.parametrize("num_passes", [2, 3, 200])
def test_noise_does_not_depend_on_who_takes_which_text(
    tokens: TokenStore, tokenizer: Tokenizer, num_passes: int
) -> None:
    (whole,) = composed(tokens, tokenizer, {"sentence_order": True})
    parts = composed(tokens, tokenizer, {"sentence_order": True}, num_passes)
    assert len(parts) == num_passes
    told = [part for part in parts if len(part.targets) or num_passes < 200]
    assert torch.equal(torch.cat([part.targets for part in parts]), whole.targets)
    if num_passes < 200:
        assert torch.equal(torch.cat([part.batch.input_ids for part in told]), whole.batch.input_ids)
    assert torch.equal(
        composed(tokens, tokenizer, {"sentence_order": True}, num_passes, slice(1, 2))[0].targets, parts[1].targets
    )


def test_changed_data_are_tokenised_anew(tokenizer: Tokenizer, tmp_path: Path) -> None:
    data = write_corpus(tmp_path / "data")
    store = open_store(str(tmp_path))

    def make() -> str:
        return make_tokens(store, plan_slices(settings(data, tmp_path).data), tokenizer, "chance", on_ray=False)

    first = make()
    assert make() == first
    with (tmp_path / "data" / "c.txt").open("a") as file:
        file.write("more\n")
    assert make() != first


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


def test_steps_are_nearly_orthogonal() -> None:
    torch.manual_seed(0)
    for shape in ((2, 64, 16), (2, 16, 64)):
        scales = torch.linalg.svdvals(orthogonal(torch.randn(shape)).float())
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
