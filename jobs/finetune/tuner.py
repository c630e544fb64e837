"""What is trained: the parent's trunk and one linear layer a head, packed texts in, every head's outputs out.

A head that the parent has goes on from its weights, unless it has a dense layer of its own (RoBERTa's classifiers),
which is left out: such a head begins anew. With adapters the trunk stays and low-rank changes of its matrices learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from jobs.finetune.adapters import adapt, adapter_tensors
from jobs.finetune.heads import LearntHead
from jobs.finetune.settings import FinetuneError
from jobs.train.first_weights import INIT_STD
from jobs.train.optim import Optimizer, Share, share_of
from models.architecture import Pooling
from models.bundle import Bundle
from models.heads import HeadSpec
from models.packing import PackedBatch
from models.trunk import Trunk
from models.weights import load_trunk, to_transformers

_LOSSES = torch.device("cpu")


class Tuner(nn.Module):
    """A trunk and the heads that are learnt on it."""

    def __init__(self, trunk: Trunk, specs: Sequence[HeadSpec], *, is_frozen: bool, rank: int | None = None) -> None:
        super().__init__()
        self.trunk, self.specs, self.is_frozen, self.is_adapted = trunk, tuple(specs), is_frozen, rank is not None
        size = trunk.arch.hidden_size
        self.heads = nn.ModuleDict({spec.name: nn.Linear(size, len(spec.labels)) for spec in specs})
        for head in self.heads.values():
            assert isinstance(head, nn.Linear)
            nn.init.normal_(head.weight, std=INIT_STD)
            nn.init.zeros_(head.bias)
        self.dropout = nn.Dropout(next(m.p for m in trunk.modules() if isinstance(m, nn.Dropout)))
        self.trunk.requires_grad_(not is_frozen)
        if rank is not None:
            adapt(trunk, rank)

    def forward(self, batch: PackedBatch) -> list[torch.Tensor]:
        """Outputs of each head, B x C, or T x C of a token head, in fp32.

        Batches and outputs are on the CPU, wherever the trunk computes: a step's outputs are small, so labels and
        losses stay there.
        """
        batch = batch.to(self.device)
        hidden_td = self.trunk(batch)
        states = [self._states(spec, hidden_td, batch) for spec in self.specs]
        with torch.autocast(self.device.type, enabled=False):
            pairs = zip(self.specs, states, strict=True)
            return [self.heads[spec.name](self.dropout(own.float())).to(_LOSSES) for spec, own in pairs]

    def pooled(self, batch: PackedBatch, pooling: Pooling) -> torch.Tensor:
        """B x D vectors of the texts, without a head."""
        batch = batch.to(self.device)
        return self.trunk.pool(self.trunk(batch), batch, pooling).to(_LOSSES)

    @property
    def device(self) -> torch.device:
        """Where the trunk computes."""
        return self.trunk.word_embeddings.weight.device

    def _states(self, spec: HeadSpec, hidden_td: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        return hidden_td if spec.reads_tokens else self.trunk.pool(hidden_td, batch, spec.pooling)

    def shares(self, layer_decay: float) -> list[Share]:
        """Parameters by depth: heads and the last norm learn at full rate, each layer below at `layer_decay` less."""
        trunk = self.trunk
        layers = [list(layer.parameters()) for layer in trunk.layers]
        inner = {id(parameter) for own in layers for parameter in own}
        embeddings = [p for name, p in trunk.named_parameters() if "embedding" in name]
        outer = {id(parameter) for parameter in embeddings}
        top = [p for p in self.parameters() if id(p) not in inner and id(p) not in outer]
        depths = [(top, 0), *((own, len(layers) - index) for index, own in enumerate(layers))]
        depths.append((embeddings, len(layers) + 1))
        return [
            share_of([p for p in own if p.requires_grad], trunk.layers, layer_decay**depth) for own, depth in depths
        ]

    def optimizer(self, learning_rate: float, matrix_learning_rate: float, layer_decay: float) -> Optimizer:
        """Muon and AdamW, layer by layer slower towards the embeddings."""
        return Optimizer(self.shares(layer_decay), learning_rate, matrix_learning_rate)

    def head_tensors(self) -> dict[str, torch.Tensor]:
        """Under a bundle's names."""
        return {f"heads.{name}": tensor for name, tensor in self.heads.state_dict().items()}

    def trunk_tensors(self) -> dict[str, torch.Tensor]:
        """Under a bundle's names; of an adapted trunk the adapters alone."""
        return adapter_tensors(self.trunk) if self.is_adapted else to_transformers(self.trunk)


def build_tuner(
    parent: Bundle, heads: Sequence[LearntHead], dropout: float, *, is_frozen: bool, rank: int | None = None
) -> Tuner:
    """Load the parent's trunk, and those of the heads that it has; with a rank, adapters learn and not the trunk.

    Raises
    ------
    BundleError : the parent's family has no packed trunk.
    FinetuneError : it lacks the pooler that a head is to read.
    """
    arch = parent.packed_architecture
    specs, tensors = [head.spec for head in heads], parent.tensors()
    reads_pooler = any(spec.pooling == "pooler" for spec in specs if not spec.reads_tokens)
    has_pooler = any("pooler" in name for name in tensors)
    if reads_pooler and not has_pooler:
        raise FinetuneError(f"bundle {parent} has no pooler: choose pooling mean or first")
    trunk = Trunk(arch, dropout, has_pooler=has_pooler)
    trunk.load_state_dict(load_trunk(arch, tensors, has_pooler=has_pooler).state_dict())
    tuner = Tuner(trunk, specs, is_frozen=is_frozen, rank=rank)
    for head in heads:
        if head.is_known and f"heads.{head.spec.name}.dense.weight" not in tensors:
            _load_head(tuner, head.spec, tensors)
    return tuner


def _load_head(tuner: Tuner, spec: HeadSpec, tensors: Mapping[str, torch.Tensor]) -> None:
    """A head's temperature is taken into its weights, as it will be fitted anew."""
    state = {part: tensors[f"heads.{spec.name}.{part}"].float() / spec.temperature for part in ("weight", "bias")}
    tuner.heads[spec.name].load_state_dict(state)
