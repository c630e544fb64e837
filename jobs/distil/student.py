"""The student: a packed trunk with the heads it is to have, and for each teacher linear maps into that one's spaces.

Maps are thrown away in the bundle: its embedding is the trunk's own mean, of which a teacher's vector is a linear
image. Given up: a decoder for masked words; a trunk that should know more text is pretrained first (`jobs.train`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from jobs.distil.likeness import made_over, prenorm_shape
from jobs.distil.settings import DistilError, StudentSettings
from jobs.train.first_weights import initialise
from models.architecture import Architecture
from models.bundle import TOKENIZER_FILE, Bundle
from models.fetch import fetch
from models.heads import HeadSpec
from models.packing import PackedBatch
from models.tokeniser import Tokeniser
from models.trunk import Trunk
from models.weights import load_trunk, to_transformers

EMBEDDING = "embedding"


@dataclass(frozen=True)
class Origin:
    """Where a student begins: its shape, the tokeniser's file and limit, and whose weights it has.

    parent : the bundle that it goes on from. like : the teacher that is made over. vocabulary : the bundle whose
    tokeniser it has, and whose embeddings stand in for words that the teacher can't spell.
    """

    arch: Architecture
    tokenizer: Path
    max_length: int
    parent: Bundle | None = None
    like: Bundle | None = None
    vocabulary: Bundle | None = None

    @property
    def digest(self) -> str:
        """Names what the student begins with, but for the shape and the teacher."""
        bundle = self.parent or self.vocabulary
        return bundle.digest if bundle else hashlib.sha256(self.tokenizer.read_bytes()).hexdigest()

    @property
    def tokeniser(self) -> Tokeniser:
        """Loaded."""
        return Tokeniser(self.tokenizer, self.max_length)


def find_origin(settings: StudentSettings, teacher: Bundle) -> Origin:
    """Look up what the settings name; `teacher` is the first one.

    Raises
    ------
    ValueError : no such bundle or tokeniser, a bundle without a packed trunk, a teacher that can't be made over.
    """
    if settings.bundle is not None:
        parent = fetch(settings.bundle)
        return Origin(parent.packed_architecture, parent.folder / TOKENIZER_FILE, parent.spec.max_length, parent=parent)
    name = settings.tokeniser
    vocabulary = None if name is None or Path(name).is_file() else fetch(name)
    tokenizer = Path(name) if name and vocabulary is None else (vocabulary or teacher).folder / TOKENIZER_FILE
    vocab_size = Tokenizer.from_file(str(tokenizer)).get_vocab_size()
    if settings.shape is None:
        arch = prenorm_shape(teacher, vocab_size)
        return Origin(arch, tokenizer, arch.max_length, like=teacher, vocabulary=vocabulary)
    shape, max_length = settings.shape.model_dump(exclude={"max_length"}), settings.shape.max_length
    arch = Architecture(vocab_size=vocab_size, max_position_embeddings=max_length, **shape)
    return Origin(arch, tokenizer, max_length)


@dataclass(frozen=True)
class States:
    """A batch from inside: hidden (T, D), pooled (B, D), query, key and value of the last layer (T, 3 D)."""

    hidden: torch.Tensor
    pooled: torch.Tensor
    qkv: torch.Tensor


class Maps(nn.Module):
    """From the student's D to a teacher's E, and that teacher's heads; equal sizes begin with the identity."""

    def __init__(self, size: int, teacher_size: int, heads: Sequence[HeadSpec]) -> None:
        super().__init__()
        self.specs = tuple(head.model_copy(update={"pooling": "mean"}) for head in heads)
        self.embedding = nn.Linear(size, teacher_size, bias=False)
        self.words = nn.Linear(size, teacher_size, bias=False)
        self.heads = nn.ModuleDict({spec.name: nn.Linear(size, len(spec.labels)) for spec in self.specs})

    def logits(self, pooled_bd: torch.Tensor) -> torch.Tensor:
        """All heads' outputs side by side, in fp32."""
        return torch.cat([self.heads[spec.name](pooled_bd) for spec in self.specs], dim=1)


class Student(nn.Module):
    """Trunk, and maps and heads by lesson."""

    def __init__(self, trunk: Trunk, lessons: Mapping[str, Maps]) -> None:
        super().__init__()
        self.trunk = trunk
        self.lessons = nn.ModuleDict(lessons)
        self._qkv: torch.Tensor | None = None
        trunk.layers[-1].get_submodule("attention.qkv").register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        self._qkv = output

    def forward(self, batch: PackedBatch) -> States:
        """From packed texts, wherever they lie, to states on the trunk's device."""
        batch = batch.to(self.trunk.word_embeddings.weight.device)
        hidden_td = self.trunk(batch)
        assert self._qkv is not None
        states, self._qkv = States(hidden_td, self.trunk.pool(hidden_td, batch, "mean"), self._qkv), None
        return states

    def maps(self, lesson: str) -> Maps:
        """Those of one teacher."""
        maps = self.lessons[lesson]
        assert isinstance(maps, Maps)
        return maps

    @property
    def bundle_heads(self) -> tuple[HeadSpec, ...]:
        """What the bundle is to hold."""
        specs = (spec for name in self.lessons for spec in self.maps(name).specs)
        size = self.trunk.arch.hidden_size
        return (*specs, HeadSpec(name=EMBEDDING, kind="embedding", size=size, pooling="mean", normalise=True))

    def bundle_tensors(self) -> dict[str, torch.Tensor]:
        """Under a bundle's names, in half precision."""
        tensors = to_transformers(self.trunk)
        for name in self.lessons:
            tensors |= {f"heads.{key}": tensor for key, tensor in self.maps(name).heads.state_dict().items()}
        return {name: tensor.detach().cpu().half().contiguous() for name, tensor in tensors.items()}


def build_student(
    origin: Origin, teachers: Mapping[str, tuple[int, Sequence[HeadSpec]]], dropout: float, texts: Sequence[str]
) -> Student:
    """With the parent's weights, the first teacher's made over (fitted on `texts`), or with new ones.

    Parameters
    ----------
    teachers : by lesson, the size of the teacher's vectors and the heads whose answers are learnt.

    Raises
    ------
    DistilError : two teachers have a head of the same name.
    """
    names = [head.name for _, heads in teachers.values() for head in heads]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DistilError(f"losses.logits: several teachers have the heads {twice}; ask one of them")
    trunk = Trunk(origin.arch, dropout, has_pooler=False)
    size = origin.arch.hidden_size
    student = Student(trunk, {name: Maps(size, wide, heads) for name, (wide, heads) in teachers.items()})
    initialise(student, origin.arch.num_hidden_layers)
    for name in teachers:
        for linear in (student.maps(name).embedding, student.maps(name).words):
            if linear.in_features == linear.out_features:
                nn.init.eye_(linear.weight)
    if origin.parent is not None:
        trunk.load_state_dict(load_trunk(origin.arch, origin.parent.tensors(), has_pooler=False).state_dict())
    if origin.like is not None:
        trunk.load_state_dict(made_over(origin.like, origin.arch, origin.tokenizer, origin.vocabulary, texts))
    return student
