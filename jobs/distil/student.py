"""The student: a packed trunk with the heads it is to have, and the linear maps into the teacher's spaces.

Maps are thrown away in the bundle: its embedding is the trunk's own mean, of which the teacher's vector is a linear
image. Given up: a decoder for masked words; a trunk that should know more text is pretrained first (`jobs.train`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

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
    """Where a student begins: shape, the tokeniser's file and limit, and the bundle whose weights it goes on from."""

    arch: Architecture
    tokenizer: Path
    max_length: int
    parent: Bundle | None

    @property
    def digest(self) -> str:
        """Names what the student begins with, but for the shape."""
        return self.parent.digest if self.parent else hashlib.sha256(self.tokenizer.read_bytes()).hexdigest()

    @property
    def tokeniser(self) -> Tokeniser:
        """Loaded."""
        return Tokeniser(self.tokenizer, self.max_length)


def find_origin(settings: StudentSettings) -> Origin:
    """Look up what the settings name.

    Raises
    ------
    ValueError : no such bundle or tokeniser, or a bundle without a packed trunk.
    """
    if settings.bundle is not None:
        parent = fetch(settings.bundle)
        arch = parent.spec.architecture
        if not isinstance(arch, Architecture):
            raise DistilError(f"student {parent} is of the family {arch.model_type}: it has no packed trunk to train")
        return Origin(arch, parent.folder / TOKENIZER_FILE, parent.spec.max_length, parent)
    assert settings.shape is not None
    assert settings.tokeniser is not None
    path = Path(settings.tokeniser)
    tokenizer = path if path.is_file() else fetch(settings.tokeniser).folder / TOKENIZER_FILE
    shape = settings.shape.model_dump(exclude={"max_length"})
    vocab_size = Tokenizer.from_file(str(tokenizer)).get_vocab_size()
    max_length = settings.shape.max_length
    arch = Architecture(vocab_size=vocab_size, max_position_embeddings=max_length, **shape)
    return Origin(arch, tokenizer, max_length, None)


@dataclass(frozen=True)
class States:
    """A batch from inside: hidden (T, D), pooled (B, D), query, key and value of the last layer (T, 3 D)."""

    hidden: torch.Tensor
    pooled: torch.Tensor
    qkv: torch.Tensor


class Student(nn.Module):
    """Trunk, heads and maps. `teacher_size` is the teacher's D."""

    def __init__(self, trunk: Trunk, heads: Sequence[HeadSpec], teacher_size: int) -> None:
        super().__init__()
        size = trunk.arch.hidden_size
        self.trunk = trunk
        self.specs = tuple(head.model_copy(update={"pooling": "mean"}) for head in heads)
        self.embedding_map = nn.Linear(size, teacher_size, bias=False)
        self.word_map = nn.Linear(size, teacher_size, bias=False)
        self.heads = nn.ModuleDict({spec.name: nn.Linear(size, len(spec.labels)) for spec in self.specs})
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

    def logits(self, pooled_bd: torch.Tensor) -> torch.Tensor:
        """All heads' outputs side by side, in fp32."""
        return torch.cat([self.heads[spec.name](pooled_bd) for spec in self.specs], dim=1)

    @property
    def bundle_heads(self) -> tuple[HeadSpec, ...]:
        """What the bundle is to hold."""
        size = self.trunk.arch.hidden_size
        return (*self.specs, HeadSpec(name=EMBEDDING, kind="embedding", size=size, pooling="mean", normalise=True))

    def bundle_tensors(self) -> dict[str, torch.Tensor]:
        """Under a bundle's names, in half precision."""
        tensors = to_transformers(self.trunk) | {f"heads.{name}": t for name, t in self.heads.state_dict().items()}
        return {name: tensor.detach().cpu().half().contiguous() for name, tensor in tensors.items()}


def build_student(origin: Origin, heads: Sequence[HeadSpec], teacher_size: int, dropout: float) -> Student:
    """With the parent's weights, or with new ones."""
    trunk = Trunk(origin.arch, dropout, has_pooler=False)
    student = Student(trunk, heads, teacher_size)
    initialise(student, origin.arch.num_hidden_layers)
    if origin.parent is not None:
        trunk.load_state_dict(load_trunk(origin.arch, origin.parent.tensors(), has_pooler=False).state_dict())
    return student
