"""Checkpoints in Megatron-LM's layouts, imported, score as the weights they were written from."""

import enum
import json
import shutil
import signal
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import (
    AutoTokenizer,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2LMHeadModel,
    MegatronBertModel,
)

from models.architecture import Architecture
from models.bundle import Bundle, load_bundle
from models.convert.__main__ import main
from models.convert.errors import ConversionError
from models.convert.megatron import read_megatron
from models.packing import pack
from models.scorer import Scorer
from models.weights import load_trunk
from tests.models.convert_fixtures import (
    MAX_LENGTH,
    NUM_WORDS,
    bert_model,
    gpt_model,
    post_norm_model,
    write_bytes_vocab,
    write_vocab,
)
from tests.models.megatron_writer import (
    Source,
    Style,
    arguments,
    bert_source,
    gpt_source,
    post_norm_source,
    rank_state,
    write_distributed,
    write_megatron,
)

pytestmark = pytest.mark.slow

TEXTS = ["abc word3 word7", "x", "word1 " * 30, ""]
STYLES = [
    Style(version=None, era="transformer"),
    Style(version=0.0, num_ranks=2, era="transformer"),
    Style(version=1.0),
    Style(version=1.0, num_ranks=2),
    Style(version=2.0),
    Style(version=3.0, num_ranks=2),
    Style(version=3.0, num_ranks=4),
    Style(version=3.0, num_ranks=2, num_stages=2),
    Style(era="core", num_ranks=2),
    Style(era="core-te", num_stages=2),
]


def style_name(style: Style) -> str:
    return f"{style.era}-v{style.version}-tp{style.num_ranks}-pp{style.num_stages}"


@pytest.fixture(scope="module")
def bert() -> MegatronBertModel:
    return bert_model()


@pytest.fixture(scope="module")
def source(bert: MegatronBertModel) -> Source:
    return bert_source(bert)


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    return write_vocab(tmp_path / "vocab.txt")


@torch.inference_mode()
def assert_same_scores(bundle: Bundle, model: MegatronBertModel | BertModel) -> None:
    """The embedding head, and the pooler that fine-tuning starts from, against transformers on the source weights."""
    tokens = bundle.tokeniser.encode(TEXTS)
    rows = [
        torch.from_numpy(ids.astype(np.int64))[None] for ids in np.split(tokens.ids, np.cumsum(tokens.lengths)[:-1])
    ]
    theirs = [model(input_ids=row) for row in rows]
    scored = Scorer(bundle, token_budget=100).score(tokens).column("embedding")
    means = torch.stack([output.last_hidden_state[0].mean(0) for output in theirs])
    torch.testing.assert_close(torch.tensor(scored.to_pylist()), means, atol=1e-5, rtol=0)
    assert isinstance(bundle.spec.architecture, Architecture)
    trunk = load_trunk(bundle.spec.architecture, bundle.tensors()).eval()
    batch = pack(tokens.ids, tokens.lengths)
    pooled = torch.cat([output.pooler_output for output in theirs])
    torch.testing.assert_close(trunk.pool(trunk(batch), batch), pooled, atol=1e-5, rtol=0)


@pytest.mark.parametrize("style", STYLES, ids=style_name)
def test_a_bert_scores_as_its_source(
    tmp_path: Path, bert: MegatronBertModel, source: Source, vocab: Path, style: Style
) -> None:
    folder = write_megatron(source, tmp_path / "checkpoint", style)
    assert main(["import", str(folder), str(tmp_path / "out"), "--vocab", str(vocab), "--uncased"]) == 0
    bundle = load_bundle(tmp_path / "out")
    assert bundle.tensors()["bert.embeddings.word_embeddings.weight"].shape == (NUM_WORDS, 32)
    assert_same_scores(bundle, bert)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_bert_of_the_original_residuals_scores_as_its_source(tmp_path: Path, vocab: Path, num_ranks: int) -> None:
    model = post_norm_model()
    folder = write_megatron(post_norm_source(model), tmp_path / "checkpoint", Style(num_ranks=num_ranks))
    assert main(["import", str(folder), str(tmp_path / "out"), "--vocab", str(vocab), "--uncased"]) == 0
    bundle = load_bundle(tmp_path / "out")
    assert bundle.spec.architecture.family == "bert"
    assert_same_scores(bundle, model)


@pytest.mark.parametrize("style", [Style(era="core"), Style(era="core-te")], ids=style_name)
def test_original_residuals_are_refused_where_they_arent_known(tmp_path: Path, style: Style) -> None:
    folder = write_megatron(post_norm_source(post_norm_model()), tmp_path / "checkpoint", style)
    with pytest.raises(ConversionError, match="apply_residual_connection_post_layernorm"):
        read_megatron(folder)


def test_a_fused_order_read_as_another_would_show(tmp_path: Path, source: Source) -> None:
    """The guard of the tests above: with the wrong version, the weights are others."""
    read = [
        read_megatron(write_megatron(source, tmp_path / f"{written}", Style(version=written))).tensors
        for written in (0.0, 1.0, 3.0)
    ]
    name = "layers.0.attention.qkv.weight"
    assert torch.equal(read[0][name], read[1][name])
    assert torch.equal(read[0][name], read[2][name])
    state = rank_state(source, Style(version=3.0), 0) | {"checkpoint_version": 1.0}
    path = tmp_path / "wrong" / "mp_rank_00" / "model_optim_rng.pt"
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    assert not torch.equal(read_megatron(path).tensors[name], read[0][name])


def test_what_was_found_is_said(
    tmp_path: Path, source: Source, vocab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_megatron(source, tmp_path / "checkpoint", Style(version=3.0, num_ranks=2))
    assert main(["import", str(folder), str(tmp_path / "out"), "--vocab", str(vocab), "--name", "mine"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "family bert, pre-LN, 4 layers, hidden size 32, 4 heads, 40 positions, 128 word rows",
        "2 tensor-parallel x 1 pipeline-parallel shards, checkpoint_version 3.0",
        "dropped 5 tensors of training: lm_head.dense.weight, lm_head.layernorm.weight, lm_head.bias, "
        "binary_head.weight, binary_head.bias",
        "101 words, 27 padding rows cut off",
    ]
    assert lines[-1] == f"{load_bundle(tmp_path / 'out')} -> {tmp_path / 'out'}"
    assert lines[-1].startswith("mine@")


def test_a_distributed_checkpoint(tmp_path: Path, bert: MegatronBertModel, source: Source, vocab: Path) -> None:
    folder = write_distributed(source, tmp_path / "checkpoint")
    assert main(["import", str(folder), str(tmp_path / "out"), "--vocab", str(vocab)]) == 0
    assert_same_scores(load_bundle(tmp_path / "out"), bert)


def test_a_release(tmp_path: Path, bert: MegatronBertModel, source: Source, vocab: Path) -> None:
    """NVIDIA's releases: a zip, the file format of torch before 1.6, no arguments and no version."""
    state = rank_state(source, Style(version=None, era="transformer", with_args=False), 0)
    torch.save(state, tmp_path / "model_optim_rng.pt", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(tmp_path / "release.zip", "w") as archive:
        archive.writestr("latest_checkpointed_iteration.txt", "release")
        archive.write(tmp_path / "model_optim_rng.pt", "release/mp_rank_00/model_optim_rng.pt")
    command = ["import", str(tmp_path / "release.zip"), str(tmp_path / "out"), "--vocab", str(vocab), "--uncased"]
    assert main(command) == 2  # neither heads nor the padding (128, not 16) can be known
    assert not (tmp_path / "out").exists()
    whole = write_vocab(tmp_path / "whole.txt", 112)
    command[4] = str(whole)
    assert main([*command, "--heads", "4"]) == 0
    bundle = load_bundle(tmp_path / "out")
    assert len(bundle.tensors()["bert.embeddings.word_embeddings.weight"]) == 112
    assert_same_scores(bundle, bert)


def test_one_shard_stands_for_all(tmp_path: Path, source: Source) -> None:
    folder = write_megatron(source, tmp_path / "checkpoint", Style(num_ranks=2))
    shard = folder / "iter_0000007" / "mp_rank_01" / "model_optim_rng.pt"
    whole, by_shard = read_megatron(folder), read_megatron(shard)
    assert whole.sizes == by_shard.sizes
    assert all(torch.equal(whole.tensors[name], tensor) for name, tensor in by_shard.tensors.items())


def test_half_precision_is_kept(tmp_path: Path, source: Source, vocab: Path) -> None:
    state = rank_state(source, Style(), 0)
    state["model"] = halve(state["model"])
    path = tmp_path / "mp_rank_00" / "model_optim_rng.pt"
    path.parent.mkdir()
    torch.save(state, path)
    assert main(["import", str(path), str(tmp_path / "out"), "--vocab", str(vocab)]) == 0
    assert {tensor.dtype for tensor in load_bundle(tmp_path / "out").tensors().values()} == {torch.float16}


def halve(nested: dict) -> dict:
    return {key: halve(value) if isinstance(value, dict) else value.half() for key, value in nested.items()}


def test_a_tokenizer_file_serves_as_well(tmp_path: Path, source: Source, vocab: Path) -> None:
    folder = write_megatron(source, tmp_path / "checkpoint", Style())
    assert main(["import", str(folder), str(tmp_path / "a"), "--vocab", str(vocab), "--name", "m"]) == 0
    tokenizer = str(tmp_path / "a" / "tokenizer.json")
    assert main(["import", str(folder), str(tmp_path / "b"), "--tokenizer", tokenizer, "--name", "m"]) == 0
    assert load_bundle(tmp_path / "a").digest == load_bundle(tmp_path / "b").digest


def test_case_follows_the_checkpoint(tmp_path: Path, source: Source, vocab: Path) -> None:
    folder = write_megatron(source, tmp_path / "checkpoint", Style())
    assert main(["import", str(folder), str(tmp_path / "out"), "--vocab", str(vocab)]) == 0
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert tokenizer.encode("ABC Word3").tokens == ["[CLS]", "[UNK]", "word3", "[SEP]"]


@pytest.mark.parametrize(
    "style",
    [
        Style(version=1.0),
        Style(version=0.0, num_ranks=2, era="transformer"),
        Style(num_ranks=2, num_stages=2),
        Style(era="core-te", num_ranks=2),
    ],
    ids=style_name,
)
@torch.inference_mode()
def test_a_gpt_writes_as_its_source(tmp_path: Path, style: Style, capsys: pytest.CaptureFixture[str]) -> None:
    model = gpt_model()
    folder = write_megatron(gpt_source(model), tmp_path / "checkpoint", style)
    vocab, merges = write_bytes_vocab(tmp_path)
    out = tmp_path / "out"
    assert main(["import", str(folder), str(out), "--vocab", str(vocab), "--merges", str(merges)]) == 0
    assert "there is no bundle of a GPT" in capsys.readouterr().out
    read = GPT2LMHeadModel.from_pretrained(str(out)).eval()
    assert read.config.activation_function == "gelu_new"
    assert read.config.vocab_size == NUM_WORDS
    ids = torch.randint(0, NUM_WORDS, (3, MAX_LENGTH))
    torch.testing.assert_close(read(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5, rtol=0)
    tokenizer = AutoTokenizer.from_pretrained(str(out))
    assert tokenizer("AB").input_ids == [33, 34]
    assert tokenizer.eos_token_id == 0


def test_a_distributed_gpt(tmp_path: Path) -> None:
    model = gpt_model()
    folder = write_distributed(gpt_source(model), tmp_path / "checkpoint")
    read = read_megatron(folder)
    assert read.sizes.family == "gpt"
    assert torch.equal(read.tensors["layers.1.up.weight"], model.transformer.h[1].mlp.c_fc.weight.T)


def test_a_hugging_face_folder(tmp_path: Path, bert: MegatronBertModel, source: Source, vocab: Path) -> None:
    folder = write_megatron(source, tmp_path / "checkpoint", Style())
    assert main(["import", str(folder), str(tmp_path / "first"), "--vocab", str(vocab)]) == 0
    save_huggingface(bert, tmp_path / "hf", tmp_path / "first")
    assert main(["import", str(tmp_path / "hf"), str(tmp_path / "out")]) == 0
    first, out = (load_bundle(tmp_path / name) for name in ("first", "out"))
    tokens = first.tokeniser.encode(TEXTS)
    assert Scorer(first, token_budget=99).score(tokens).equals(Scorer(out, token_budget=99).score(tokens))


def save_huggingface(bert: MegatronBertModel, folder: Path, bundle: Path) -> None:
    bert.save_pretrained(folder)
    shutil.copyfile(bundle / "tokenizer.json", folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def test_pickled_weights_of_a_hugging_face_folder(
    tmp_path: Path, bert: MegatronBertModel, source: Source, vocab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, hf = write_megatron(source, tmp_path / "checkpoint", Style()), tmp_path / "hf"
    assert main(["import", str(folder), str(tmp_path / "first"), "--vocab", str(vocab)]) == 0
    save_huggingface(bert, hf, tmp_path / "first")
    assert main(["import", str(hf), str(tmp_path / "a"), "--name", "m"]) == 0
    words = bert.embeddings.word_embeddings.weight.detach()
    tied = {"cls.predictions.decoder.weight": words, "embeddings.word_embeddings.weight": words}
    (hf / "model.safetensors").unlink()
    torch.save({**bert.state_dict(), **tied}, hf / "pytorch_model.bin")
    assert main(["import", str(hf), str(tmp_path / "b"), "--name", "m"]) == 0
    assert "only tensors are taken" in capsys.readouterr().out
    assert load_bundle(tmp_path / "a").digest == load_bundle(tmp_path / "b").digest
    torch.save({**bert.state_dict(), "step": 7}, hf / "pytorch_model.bin")
    assert main(["import", str(hf), str(tmp_path / "c")]) == 2
    assert "must hold tensors alone; these aren't: step" in capsys.readouterr().err
    (hf / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 3'\ntR.")
    assert main(["import", str(hf), str(tmp_path / "c")]) == 2
    assert not (tmp_path / "c").exists()


def test_classes_of_megatron_are_not_needed(tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments hold enumerations of a package that isn't here; they're left out, and the rest is read."""
    module = ModuleType("megatron.core.enums")
    kind = enum.Enum("ModelType", "encoder", module="megatron.core.enums")
    module.ModelType = kind
    with monkeypatch.context() as patch:
        for name in ("megatron", "megatron.core"):
            patch.setitem(sys.modules, name, ModuleType(name))
        patch.setitem(sys.modules, "megatron.core.enums", module)
        state = rank_state(source, Style(), 0)
        state["args"].model_type = kind.encoder
        state["args"].exit_signal = signal.SIGTERM
        state["args"].padded_vocab_size = np.int64(state["args"].padded_vocab_size)
        path = tmp_path / "mp_rank_00" / "model_optim_rng.pt"
        path.parent.mkdir()
        torch.save(state, path)
    assert "megatron" not in sys.modules
    assert read_megatron(path).sizes.arch.vocab_size == 112


def test_a_family_without_a_trunk_here(
    tmp_path: Path, source: Source, vocab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_megatron(source, tmp_path / "checkpoint", Style())
    assert main(["import", str(folder), str(tmp_path / "first"), "--vocab", str(vocab)]) == 0
    config = DistilBertConfig(vocab_size=NUM_WORDS, dim=32, n_layers=1, n_heads=2, hidden_dim=64, num_labels=3)
    model = DistilBertForSequenceClassification(config)
    model.save_pretrained(tmp_path / "hf")
    shutil.copyfile(tmp_path / "first" / "tokenizer.json", tmp_path / "hf" / "tokenizer.json")
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    assert main(["import", str(tmp_path / "hf"), str(tmp_path / "out")]) == 0
    assert load_bundle(tmp_path / "out").spec.architecture.family == "transformers"
    assert main(["export", str(tmp_path / "out"), str(tmp_path / "back"), "--to", "huggingface"]) == 0
    read = DistilBertForSequenceClassification.from_pretrained(str(tmp_path / "back"))
    first, back = (model.state_dict() for model in (model, read))
    assert all(torch.equal(first[name], tensor) for name, tensor in back.items())
    assert main(["export", str(tmp_path / "out"), str(tmp_path / "repository"), "--to", "triton"]) == 2
    assert "is a distilbert, which has no trunk here to export to ONNX" in capsys.readouterr().err


def test_padding_is_as_the_arguments_say(source: Source) -> None:
    """The writer's own: 101 words at multiples of 16 x 2 ranks make 128 rows."""
    assert arguments(source, Style(num_ranks=2)).padded_vocab_size == 128
