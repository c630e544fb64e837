"""Trunk weights under transformers' names, so that bundles and Hugging Face checkpoints are the same tensors.

transformers keeps query, key and value apart; the trunk fuses them. Nothing else differs but the names.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from models.architecture import Architecture
from models.trunk import Trunk

_TOP = {
    "word_embeddings.weight": "bert.embeddings.word_embeddings.weight",
    "position_embeddings.weight": "bert.embeddings.position_embeddings.weight",
    "token_type_embeddings.weight": "bert.embeddings.token_type_embeddings.weight",
    "norm.weight": "bert.encoder.ln.weight",
    "norm.bias": "bert.encoder.ln.bias",
    "pooler.weight": "bert.pooler.dense.weight",
    "pooler.bias": "bert.pooler.dense.bias",
}
_LAYER = {
    "attention_norm": "attention.ln",
    "attention.output": "attention.output.dense",
    "feed_forward_norm": "ln",
    "up": "intermediate.dense",
    "down": "output.dense",
}
_QKV = ("query", "key", "value")


def to_transformers(trunk: Trunk) -> dict[str, torch.Tensor]:
    """The trunk's tensors under the names of transformers' `MegatronBertModel` with the prefix `bert.`."""
    state = trunk.state_dict()
    named = {theirs: state[ours] for ours, theirs in _TOP.items()}
    for index in range(trunk.arch.num_hidden_layers):
        for part in ("weight", "bias"):
            for ours, theirs in _LAYER.items():
                named[f"bert.encoder.layer.{index}.{theirs}.{part}"] = state[f"layers.{index}.{ours}.{part}"]
            thirds = state[f"layers.{index}.attention.qkv.{part}"].chunk(3)
            for name, third in zip(_QKV, thirds, strict=True):
                named[f"bert.encoder.layer.{index}.attention.self.{name}.{part}"] = third.contiguous()
    return named


def load_trunk(arch: Architecture, tensors: Mapping[str, torch.Tensor]) -> Trunk:
    """Build a trunk in fp32 from tensors under transformers' names; tensors it doesn't know are left alone.

    Raises
    ------
    ValueError : a tensor is missing or has another shape; the message names it, with both shapes.
    """
    trunk = Trunk(arch)
    expected = {name: tensor.shape for name, tensor in to_transformers(trunk).items()}
    for name, shape in expected.items():
        if name not in tensors:
            raise ValueError(f"weights lack the tensor {name} {tuple(shape)} of a {arch.family} trunk")
        if tensors[name].shape != shape:
            raise ValueError(f"tensor {name} has shape {tuple(tensors[name].shape)}, expected {tuple(shape)}")
    state = {ours: tensors[theirs].float() for ours, theirs in _TOP.items()}
    for index in range(arch.num_hidden_layers):
        theirs_layer = f"bert.encoder.layer.{index}"
        for part in ("weight", "bias"):
            for ours, theirs in _LAYER.items():
                state[f"layers.{index}.{ours}.{part}"] = tensors[f"{theirs_layer}.{theirs}.{part}"].float()
            thirds = [tensors[f"{theirs_layer}.attention.self.{name}.{part}"].float() for name in _QKV]
            state[f"layers.{index}.attention.qkv.{part}"] = torch.cat(thirds)
    trunk.load_state_dict(state)
    return trunk
