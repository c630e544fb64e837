"""Checkpoints that can't be trusted or don't fit are refused, by name, with nothing run and nothing written."""

import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader

from models.convert.__main__ import main
from models.convert.errors import ConversionError
from models.convert.megatron import read_megatron
from tests.models.convert_fixtures import bert_model, gpt_model, write_vocab
from tests.models.megatron_writer import (
    Code,
    Source,
    Style,
    bert_source,
    gpt_source,
    rank_state,
    write_distributed,
    write_megatron,
)

pytestmark = pytest.mark.slow

ITERATION = "iter_0000007"
SHARD = "model_optim_rng.pt"
UP = "layers.1.mlp.dense_h_to_4h.weight"


@pytest.fixture(scope="module")
def source() -> Source:
    return bert_source(bert_model())


@pytest.fixture
def two_ranks(tmp_path: Path, source: Source) -> Path:
    return write_megatron(source, tmp_path / "checkpoint", Style(num_ranks=2))


def edit(folder: Path, rank: int, change: Callable[[dict], object]) -> None:
    path = folder / ITERATION / f"mp_rank_{rank:02d}" / SHARD
    state = torch.load(path, weights_only=False)
    change(state)
    torch.save(state, path)


def layers(state: dict) -> dict:
    return state["model"]["language_model"]["encoder"]


def remove(folder: Path, rank: int) -> None:
    shutil.rmtree(folder / ITERATION / f"mp_rank_{rank:02d}")


def cut(folder: Path) -> None:
    path = folder / ITERATION / "mp_rank_00" / SHARD
    path.write_bytes(path.read_bytes()[:-2000])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda f: remove(f, 0),
            r"lacks the shard of tensor-parallel rank 0, pipeline stage 0; found \['mp_rank_01'\]",
        ),
        (lambda f: remove(f, 1), r"trained with 2 tensor-parallel shards, found 1"),
        (
            lambda f: shutil.copytree(f / ITERATION / "mp_rank_01", f / ITERATION / "mp_rank_02"),
            r"trained with 2 tensor-parallel shards, found 3",
        ),
        (cut, r"mp_rank_00/model_optim_rng\.pt can't be read as a checkpoint, it may be damaged or cut short"),
        (lambda f: (f / ITERATION / "mp_rank_01" / SHARD).write_bytes(b""), r"mp_rank_01/.* can't be read"),
        (lambda f: (f / ITERATION / "mp_rank_01" / SHARD).write_bytes(b"text"), r"mp_rank_01/.* can't be read"),
        (
            lambda f: edit(f, 0, lambda s: layers(s).pop(UP)),
            r"mp_rank_00 lacks the tensor layers\.1\.up\.weight \(64, 32\)",
        ),
        (
            lambda f: edit(f, 0, lambda s: layers(s).update({"layers.4.input_layernorm.weight": torch.ones(32)})),
            r"mp_rank_00 holds language_model\.encoder\.layers\.4\.input_layernorm\.weight, which isn't part of a bert "
            r"of 4 layers",
        ),
        (
            lambda f: edit(f, 0, lambda s: layers(s).update({"layers.0.router.weight": torch.ones(3)})),
            r"tensor language_model\.encoder\.layers\.0\.router\.weight isn't known",
        ),
        (
            lambda f: edit(f, 0, lambda s: s.update(checkpoint_version=7.0)),
            r"checkpoint_version 7\.0 isn't known; \(0\.0, 1\.0, 2\.0, 3\.0\) are",
        ),
        (
            lambda f: edit(f, 1, lambda s: s.update(checkpoint_version=1.0)),
            r"mp_rank_01 is of version 1\.0, iteration 7, but mp_rank_00 is of version 3\.0, iteration 7",
        ),
        (lambda f: edit(f, 1, lambda s: s.update(iteration=8)), r"mp_rank_01 is of version 3\.0, iteration 8"),
        (lambda f: edit(f, 0, lambda s: s.pop("model")), r"has no dictionary 'model', got keys \['args', "),
        (
            lambda f: edit(f, 0, lambda s: setattr(s["args"], "swiglu", True)),
            r"trained with swiglu=True, which isn't known",
        ),
        (
            lambda f: edit(f, 0, lambda s: setattr(s["args"], "normalization", "RMSNorm")),
            r"normalization is 'RMSNorm'; LayerNorm is known",
        ),
        (
            lambda f: edit(f, 0, lambda s: setattr(s["args"], "position_embedding_type", "rope")),
            r"position_embedding_type is 'rope'",
        ),
        (
            lambda f: edit(f, 0, lambda s: setattr(s["args"], "num_attention_heads", 5)),
            r"hidden_size 32 must be a multiple of num_attention_heads 5",
        ),
        (
            lambda f: edit(f, 0, lambda s: setattr(s["args"], "hidden_size", 64)),
            r"tensor language_model\.embedding\.word_embeddings\.weight of mp_rank_00 has shape \(64, 32\), expected "
            r"\(64, 64\)",
        ),
        (lambda f: (f / "latest_checkpointed_iteration.txt").write_text("8"), r"names 8, but there is no folder"),
        (
            lambda f: (f / "latest_checkpointed_iteration.txt").write_text("../x"),
            r"a number or 'release', got '\.\./x'",
        ),
        (shutil.rmtree, r"there is no checkpoint"),
        (lambda f: [remove(f, 0), remove(f, 1)], r"holds no mp_rank_00/model_optim_rng\.pt"),
    ],
)
def test_what_does_not_fit_is_named(two_ranks: Path, break_it: Callable[[Path], object], message: str) -> None:
    break_it(two_ranks)
    with pytest.raises(ValueError, match=message):
        read_megatron(two_ranks)


def test_a_swapped_shape_names_both(two_ranks: Path) -> None:
    name = "layers.0.mlp.dense_4h_to_h.weight"
    edit(two_ranks, 0, lambda s: layers(s).update({name: torch.zeros(64, 16)}))
    with pytest.raises(ConversionError) as caught:
        read_megatron(two_ranks)
    assert str(caught.value) == (
        f"tensor language_model.encoder.{name} of mp_rank_00 has shape (64, 16), expected (32, 32) "
        "(layers.0.down.weight)"
    )


def plant(folder: Path, mark: Path, where: str) -> None:
    """Put code into a shard: beside the weights, in the arguments, or in the place of a tensor."""
    if where == "args":
        edit(folder, 0, lambda state: setattr(state["args"], "hook", Code(mark)))
    elif where == "tensor":
        edit(folder, 0, lambda state: layers(state).update({UP: Code(mark)}))
    else:
        edit(folder, 0, lambda state: state.update(extra=Code(mark)))


@pytest.mark.parametrize("where", ["top", "args", "tensor"])
def test_pickled_code_never_runs(tmp_path: Path, two_ranks: Path, where: str) -> None:
    mark = tmp_path / "ran"
    plant(two_ranks, mark, where)
    torch.load(two_ranks / ITERATION / "mp_rank_00" / SHARD, weights_only=False)
    assert mark.exists(), "the planted code must be live, or this test shows nothing"
    mark.rmdir()
    with pytest.raises(ConversionError, match=r"mp_rank_00/model_optim_rng\.pt is refused: it asks for posix\.mkdir"):
        read_megatron(two_ranks)
    assert not mark.exists()


@pytest.mark.parametrize("file", [".metadata", "common.pt"])
def test_pickled_code_in_a_distributed_checkpoint_never_runs(tmp_path: Path, source: Source, file: str) -> None:
    folder = write_distributed(source, tmp_path / "checkpoint")
    mark = tmp_path / "ran"
    planted = pickle.dumps(Code(mark))
    pickle.loads(planted)  # noqa: S301 - our own bytes: live, or this test shows nothing
    mark.rmdir()
    if file == ".metadata":
        (folder / ITERATION / file).write_bytes(planted)
    else:
        torch.save({"args": Code(mark)}, folder / ITERATION / file)
    with pytest.raises(ConversionError, match=r"is refused: it asks for posix\.mkdir"):
        read_megatron(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "common.pt").unlink(), r"lacks common\.pt"),
        (lambda f: next(f.glob("*.distcp")).unlink(), r"iter_0000007 can't be read as a checkpoint, it may be damaged"),
        (lambda f: (f / ".metadata").write_bytes(b"\x80\x04K\x01."), r"must hold checkpoint metadata, got int"),
        (lambda f: (f / ".metadata").write_bytes(b"\x80"), r"\.metadata can't be read, it may be damaged"),
    ],
)
def test_a_damaged_distributed_checkpoint(
    tmp_path: Path, source: Source, break_it: Callable[[Path], object], message: str
) -> None:
    folder = write_distributed(source, tmp_path / "checkpoint")
    break_it(folder / ITERATION)
    with pytest.raises(ConversionError, match=message):
        read_megatron(folder)


def test_a_spoilt_distributed_checkpoint(tmp_path: Path, source: Source) -> None:
    folder = write_distributed(source, tmp_path / "checkpoint")
    file = next((folder / ITERATION).glob("*.distcp"))
    data = bytearray(file.read_bytes())
    data[:4] = struct.pack("<I", 0)
    file.write_bytes(data)
    with pytest.raises(ConversionError, match=r"iter_0000007 can't be read as a checkpoint, it may be damaged"):
        read_megatron(folder)


def test_pickled_code_in_the_place_of_a_distributed_tensor_never_runs(tmp_path: Path, source: Source) -> None:
    folder = write_distributed(source, tmp_path / "checkpoint")
    mark = tmp_path / "ran"
    torch.save(Code(mark), tmp_path / "code", _use_new_zipfile_serialization=False)
    for entry in FileSystemReader(folder / ITERATION).read_metadata().storage_data.values():
        with (folder / ITERATION / entry.relative_path).open("r+b") as file:
            file.seek(entry.offset)
            file.write((tmp_path / "code").read_bytes()[: entry.length])
    with pytest.raises(ConversionError, match=r"iter_0000007 is refused: it asks for posix\.mkdir"):
        read_megatron(folder)
    assert not mark.exists()


def test_virtual_pipeline_stages_are_refused(two_ranks: Path) -> None:
    edit(two_ranks, 0, lambda state: state.update(model0=state.pop("model")))
    with pytest.raises(ConversionError, match=r"has no dictionary 'model', got keys .*'model0'"):
        read_megatron(two_ranks)


def test_an_untied_gpt_is_refused(tmp_path: Path) -> None:
    folder = write_megatron(gpt_source(gpt_model()), tmp_path / "checkpoint", Style())
    edit(folder, 0, lambda state: setattr(state["args"], "untie_embeddings_and_output_weights", True))
    with pytest.raises(ConversionError, match="untied output weights"):
        read_megatron(folder)


def test_heads_must_be_known_and_agree(tmp_path: Path, source: Source) -> None:
    shard = tmp_path / "mp_rank_00" / SHARD
    shard.parent.mkdir()
    torch.save(rank_state(source, Style(with_args=False), 0), shard)
    with pytest.raises(ConversionError, match="doesn't say how many attention heads it has: give --heads"):
        read_megatron(shard)
    assert read_megatron(shard, 4).sizes.arch.num_attention_heads == 4
    torch.save(rank_state(source, Style(), 0), shard)
    with pytest.raises(ConversionError, match="has 4 attention heads, but --heads is 8"):
        read_megatron(shard, 8)


def refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, source: Source, *options: str, style: Style | None = None
) -> str:
    """Run an import that must fail; give its message."""
    if not (tmp_path / "checkpoint").exists():
        write_megatron(source, tmp_path / "checkpoint", style or Style())
    assert main(["import", str(tmp_path / "checkpoint"), str(tmp_path / "out"), *options]) == 2
    assert sorted(path.name for path in tmp_path.glob("out*")) == [], "nothing may be left behind"
    return capsys.readouterr().err.strip()


def test_a_tokeniser_of_another_size(capsys: pytest.CaptureFixture[str], tmp_path: Path, source: Source) -> None:
    vocab = write_vocab(tmp_path / "vocab.txt", 140)
    assert refused(capsys, tmp_path, source, "--vocab", str(vocab)) == (
        "ConversionError: the tokeniser has 140 entries, 144 padded to a multiple of 16, but the checkpoint has 112 "
        "word embeddings: it was trained with another tokeniser"
    )
    small = write_vocab(tmp_path / "small.txt", 60)
    assert "has 60 entries, 64 padded" in refused(capsys, tmp_path, source, "--vocab", str(small))


@pytest.mark.parametrize("num_words", [97, 112])
def test_a_size_within_the_padding_is_taken(tmp_path: Path, source: Source, num_words: int) -> None:
    vocab = write_vocab(tmp_path / "vocab.txt", num_words)
    write_megatron(source, tmp_path / "checkpoint", Style())
    assert main(["import", str(tmp_path / "checkpoint"), str(tmp_path / "out"), "--vocab", str(vocab)]) == 0


def test_tokenisers_that_cannot_be_had(capsys: pytest.CaptureFixture[str], tmp_path: Path, source: Source) -> None:
    vocab = write_vocab(tmp_path / "vocab.txt")
    assert "either --tokenizer tokenizer.json or --vocab" in refused(capsys, tmp_path, source)
    both = ("--vocab", str(vocab), "--tokenizer", str(vocab))
    assert "either --tokenizer tokenizer.json or --vocab" in refused(capsys, tmp_path, source, *both)
    assert "isn't a usable tokeniser" in refused(capsys, tmp_path, source, "--tokenizer", str(vocab))
    assert "nowhere isn't a usable tokeniser" in refused(capsys, tmp_path, source, "--vocab", str(tmp_path / "nowhere"))
    assert "trained with BertWordPieceLowerCase, but --cased is given" in refused(
        capsys, tmp_path, source, "--vocab", str(vocab), "--cased"
    )


def test_an_unknown_case_must_be_given(capsys: pytest.CaptureFixture[str], tmp_path: Path, source: Source) -> None:
    vocab = write_vocab(tmp_path / "vocab.txt", 112)
    write_megatron(source, tmp_path / "checkpoint", Style(with_args=False))
    assert "give --cased or --uncased" in refused(capsys, tmp_path, source, "--vocab", str(vocab), "--heads", "4")


def test_weights_that_are_not_finite(capsys: pytest.CaptureFixture[str], tmp_path: Path, source: Source) -> None:
    vocab = write_vocab(tmp_path / "vocab.txt")
    folder = write_megatron(source, tmp_path / "checkpoint", Style())
    edit(folder, 0, lambda state: layers(state)[UP].fill_(float("nan")))
    assert "values that aren't finite" in refused(capsys, tmp_path, source, "--vocab", str(vocab))


def test_a_folder_that_is_there_stays(tmp_path: Path, source: Source, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    write_megatron(source, tmp_path / "checkpoint", Style())
    assert main(["import", str(tmp_path / "checkpoint"), str(tmp_path / "out")]) == 2
    assert "is there already; name a new folder" in capsys.readouterr().err
    assert (tmp_path / "out" / "mine").read_text() == "precious"


def test_gpt_needs_its_merges(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    vocab = write_vocab(tmp_path / "vocab.json")
    assert "needs its --merges" in refused(capsys, tmp_path, gpt_source(gpt_model()), "--vocab", str(vocab))
