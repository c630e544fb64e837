"""A BERT made over into a Megatron-BERT, a vocabulary moved to another, and several teachers at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from cluster.config import parse_config
from jobs.distil.learn import Material, Timetable
from jobs.distil.prenorm import to_prenorm
from jobs.distil.run import distil
from jobs.distil.settings import DistilError, DistilSettings
from jobs.distil.teacher import Lesson
from jobs.distil.vocabulary import move_vocabulary
from models.architecture import Architecture, Family
from models.bundle import CARD_FILE, Bundle
from models.packing import PackedBatch, pack
from models.tokeniser import Tokens
from models.trunk import Trunk
from tests.tiny import HEADS, tiny_bundle

pytestmark = pytest.mark.usefixtures("one_thread")


def bert(family: Family = "bert") -> Trunk:
    """Norms that differ from number to number, as trained ones do."""
    arch = Architecture(
        family=family,
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    trunk = Trunk(arch, has_pooler=False).eval()
    for name, parameter in trunk.named_parameters():
        is_gain = "norm" in name and name.endswith("weight")
        parameter.data.uniform_(0.6, 1.4) if is_gain else parameter.data.normal_(std=0.12)
    return trunk


def texts(seed: int) -> PackedBatch:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 20, 60).astype(np.int32)
    return pack(rng.integers(5, 50, lengths.sum()).astype(np.int32), lengths)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_made_over_it_says_nearly_the_same_of_other_texts(family: Family) -> None:
    post = bert(family)
    pre = to_prenorm(post, texts(1)).eval()
    assert (pre.arch.family, pre.arch.max_position_embeddings) == ("megatron-bert", post.arch.max_length)
    copied = Trunk(pre.arch, has_pooler=False).eval()
    same = {name: tensor for name, tensor in post.state_dict().items() if name in copied.state_dict()}
    same["position_embeddings.weight"] = pre.position_embeddings.weight
    copied.load_state_dict(same, strict=False)
    with torch.inference_mode():
        truth, made, naive = (trunk(texts(2)) for trunk in (post, pre, copied))
    near, far = (float(torch.cosine_similarity(truth, other, dim=1).mean()) for other in (made, naive))
    assert near > 0.97
    assert near > far + 0.05


def words(*tokens: str) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({token: n for n, token in enumerate(tokens)}, unk_token=tokens[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def test_a_vocabulary_keeps_what_it_knows_spells_what_it_can_and_carries_the_rest() -> None:
    torch.manual_seed(0)
    common = [f"w{n}" for n in range(40)]
    old, new = words("[UNK]", "re", "##fund", *common), words("[UNK]", "[NAME]", "refund", "好", "##x", *common)
    old.enable_padding(length=9)  # as files of other programs come
    second = torch.randn(45, 8)
    true = second @ torch.randn(8, 16)
    olds = torch.cat([torch.randn(3, 16), true[5:]])
    olds[0] = true[0]  # [UNK], which both have
    moved = move_vocabulary(olds, old, new, second, torch.Generator())
    assert torch.equal(moved[5:], true[5:])
    torch.testing.assert_close(moved[2], olds[1:3].mean(dim=0))
    for place in (1, 3, 4):  # [NAME], 好, ##x
        assert float(torch.cosine_similarity(moved[place], true[place], dim=0)) > 0.97
    alone = move_vocabulary(olds, old, new, None, torch.Generator())
    assert not torch.equal(alone[3], moved[3])
    assert torch.equal(alone[5:], true[5:])


def test_a_step_knows_whose_texts_it_has() -> None:
    def material(num: int) -> Material:
        return Material(
            Tokens(np.arange(2 * num, dtype=np.int32), np.full(num, 2, np.int32), np.zeros(num, np.bool_)),
            Lesson(torch.zeros(num, 4)),
        )

    materials = {"main": material(4), "also": material(3)}
    timetable = Timetable.of(materials, {"main": np.array([1, 3]), "also": np.array([0, 2])})
    assert timetable.corpus.of_set("also").tolist() == [2, 3]
    found = {name: rows.tolist() for name, rows in timetable.split(np.array([3, 1, 0]))}
    assert found == {"main": [3, 1], "also": [2]}
    assert [name for name, _ in timetable.split(np.array([2]))] == ["also"]


def settings_of(tmp_path: Path, teacher: Bundle, **changes: object) -> DistilSettings:
    path = tmp_path / "my.parquet"
    rng = np.random.default_rng(0)
    some = ["nice", "food", "the", "staff", "was", "slow", "贵", "很好"]
    pq.write_table(pa.table({"text": [" ".join(rng.choice(some, rng.integers(2, 7))) for _ in range(120)]}), path)
    plain = {
        "teacher": str(teacher.folder),
        "student": {"like_teacher": True},
        "sets": {"mine": {"input": str(path)}},
        "output": str(tmp_path / "out"),
        "precision": "fp32",
        "device": "cpu",
        "threads": 1,
        "schedule": {"epochs": 6, "token_budget": 256, "learning_rate": 0.001, "matrix_learning_rate": 0.003},
        **changes,
    }
    return parse_config(plain, DistilSettings, "test")


def table(bundle: Bundle) -> dict[tuple[str, str], tuple[float, float]]:
    """Lesson and loss to before and after, from the card."""
    lines = (bundle.folder / CARD_FILE).read_text(encoding="utf-8").splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith(("| main", "| also"))]
    return {(row[0], row[1]): (float(row[3]), float(row[4])) for row in cells}


@pytest.mark.slow
def test_like_its_teacher_with_a_vocabulary_of_its_own_and_a_second_teacher(tmp_path: Path) -> None:
    first = tiny_bundle(tmp_path / "first", family="bert", seed=1)
    second = tiny_bundle(tmp_path / "second", seed=2)
    also = {"also": {"teacher": str(second.folder), "sets": {"mine": {"input": str(tmp_path / "my.parquet")}}}}
    also["also"]["losses"] = {"logits": 1.0}
    student = {"like_teacher": True, "tokeniser": str(second.folder)}
    bundle = distil(settings_of(tmp_path, first, also=also, student=student, credit="First, MIT"))
    assert bundle.spec.architecture.family == "megatron-bert"
    assert [head.name for head in bundle.spec.heads] == ["sentiment", "stars", "embedding"]
    card = (bundle.folder / CARD_FILE).read_text(encoding="utf-8")
    assert f"from `{first}` (First, MIT) and `{second}` (its licence wasn't told)" in card
    assert f"It began as `{first}` made over into a Megatron-BERT, with the vocabulary of `{second}`" in card
    found = table(bundle)
    assert found.keys() == {("main", "words"), ("also", "words"), ("also", "logits")}
    assert found["main", "words"][1] < 0.01
    assert all(found["also", loss][1] < found["also", loss][0] for loss in ("words", "logits")), found


def test_only_a_bert_is_made_over(tmp_path: Path) -> None:
    teacher = tiny_bundle(tmp_path / "megatron")
    with pytest.raises(DistilError, match=r"student.like_teacher: tiny@\w+ isn't a BERT"):
        distil(settings_of(tmp_path, teacher))


@pytest.mark.slow
def test_two_teachers_must_not_answer_the_same_question(tmp_path: Path) -> None:
    teacher = tiny_bundle(tmp_path / "first", family="bert", heads=HEADS)
    logits = {"losses": {"logits": 1.0}}
    settings = settings_of(tmp_path, teacher, **logits)
    again = {"teacher": str(teacher.folder), "sets": settings.model_dump()["sets"], **logits}
    with pytest.raises(DistilError, match=r"several teachers have the heads \['sentiment', 'stars'\]"):
        distil(settings_of(tmp_path, teacher, **logits, also={"also": again}))
