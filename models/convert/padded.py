"""A bundle's forward pass over padded rows, as one module to export: the packed trunk's own layers, on a rectangle.

A rectangle of B x S tokens is a packed batch whose texts all have S tokens, with a mask over those that aren't real; so
nothing but attention's grouping and the mean over a text differ from the packed pass. Probabilities are calibrated as a
score's are.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from models.architecture import Architecture
from models.bundle import Bundle
from models.heads import HeadSpec
from models.packing import AttentionGroup, PackedBatch
from models.readout import Readout, poolings
from models.trunk import Attention, Layer
from models.weights import load_trunk


class _RectangleAttention(Attention):
    def forward(self, hidden_td: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Attend inside the one group, whose slots are the tokens as they stand."""
        return self._project(self._attend(self.qkv(hidden_td), batch.groups[0]))


class PaddedModel(nn.Module):
    """The trunk and all heads; what it gives is named by each head's `output_names`, in order."""

    def __init__(self, bundle: Bundle, arch: Architecture) -> None:
        super().__init__()
        tensors, self.heads = bundle.tensors(), bundle.spec.heads
        self.trunk = load_trunk(arch, tensors, has_pooler="pooler" in poolings(self.heads))
        for layer in self.trunk.layers:
            assert isinstance(layer, Layer)
            attention = _RectangleAttention(arch)
            attention.load_state_dict(layer.attention.state_dict())
            layer.attention = attention
        self.readout = Readout(self.heads, tensors, torch.device("cpu"))

    def forward(self, input_ids_bs: torch.Tensor, attention_mask_bs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits and probabilities of each head, B x C or, of token heads, B x S x C; vectors B x D of an embedding."""
        num_texts, length = input_ids_bs.shape
        is_real_bs = attention_mask_bs > 0
        nothing = input_ids_bs.new_empty(0)
        group = AttentionGroup(num_texts, length, nothing, nothing, is_real_bs[:, None, None, :])
        batch = PackedBatch(
            input_ids=input_ids_bs.reshape(-1),
            positions=torch.arange(length).expand(num_texts, length).reshape(-1),
            bounds=torch.arange(num_texts + 1) * length,
            longest=length,
            groups=(group,),
        )
        hidden_td = self.trunk(batch)
        hidden_bsd = hidden_td.reshape(num_texts, length, -1)
        pooled = {
            pooling: _mean(hidden_bsd, is_real_bs) if pooling == "mean" else self.trunk.pool(hidden_td, batch, pooling)
            for pooling in self.readout.poolings
        }
        outputs = self.readout(hidden_bsd, pooled)
        return tuple(part for head, raw in zip(self.heads, outputs, strict=True) for part in head_outputs(head, raw))


def output_names(head: HeadSpec) -> tuple[str, ...]:
    """What `head_outputs` are called."""
    return (head.name,) if head.kind == "embedding" else (f"logits_{head.name}", f"probs_{head.name}")


def head_outputs(head: HeadSpec, raw: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What a head gives of its raw outputs: logits and probabilities, or a vector."""
    if head.kind == "embedding":
        return (functional.normalize(raw, dim=-1) if head.normalise else raw,)
    scaled = raw / head.temperature
    return raw, torch.sigmoid(scaled) if head.kind == "multi" else torch.softmax(scaled, dim=-1)


def _mean(hidden_bsd: torch.Tensor, is_real_bs: torch.Tensor) -> torch.Tensor:
    weight_bs1 = is_real_bs[:, :, None].float()
    return (hidden_bsd * weight_bs1).sum(1) / weight_bs1.sum(1)
