"""Trunk weights under transformers' names, so that bundles and Hugging Face checkpoints are the same tensors.

transformers keeps query, key and value apart; the trunk fuses them. Nothing else differs but the names: each family's
prefix and norms, a base model's checkpoint that has no prefix, and the norms' `gamma` and `beta` of old checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from models.architecture import Architecture, Family
from models.trunk import Trunk

PREFIXES: dict[Family, str] = {"megatron-bert": "bert", "bert": "bert", "roberta": "roberta", "xlm-roberta": "roberta"}
_TOP = {
    "word_embeddings": "embeddings.word_embeddings",
    "position_embeddings": "embeddings.position_embeddings",
    "token_type_embeddings": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
    "norm": "encoder.ln",
    "pooler": "pooler.dense",
}
_LAYER = {
    "attention.output": ("attention.output.dense",),
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "up": ("intermediate.dense",),
    "down": ("output.dense",),
}
_PRE_NORMS = {"attention_norm": ("attention.ln",), "feed_forward_norm": ("ln",)}
_POST_NORMS = {"attention_norm": ("attention.output.LayerNorm",), "feed_forward_norm": ("output.LayerNorm",)}
_OLD_PARTS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def to_transformers(trunk: Trunk) -> dict[str, torch.Tensor]:
    """The trunk's tensors under the names of transformers' models with the family's prefix, `bert.` or `roberta.`."""
    named = {}
    for ours, tensor in trunk.state_dict().items():
        theirs = _their_names(trunk.arch, ours)
        for name, piece in zip(theirs, tensor.chunk(len(theirs)), strict=True):
            named[name] = piece.contiguous()
    return named


def trunk_tensors(
    arch: Architecture, tensors: Mapping[str, torch.Tensor], *, has_pooler: bool = True
) -> dict[str, torch.Tensor]:
    """Pick a trunk's tensors out of a checkpoint, under the names of `to_transformers`; heads are left alone.

    Raises
    ------
    ValueError : a tensor is missing or has another shape; the message names it, with both shapes.
    """
    found = {_full_name(arch, name): tensor for name, tensor in tensors.items()}
    picked = {}
    for name, tensor in to_transformers(_empty_trunk(arch, has_pooler)).items():
        if name not in found:
            raise ValueError(f"weights lack the tensor {name} {tuple(tensor.shape)} of a {arch.family} trunk")
        if found[name].shape != tensor.shape:
            raise ValueError(f"tensor {name} has shape {tuple(found[name].shape)}, expected {tuple(tensor.shape)}")
        picked[name] = found[name]
    return picked


def load_trunk(arch: Architecture, tensors: Mapping[str, torch.Tensor], *, has_pooler: bool = True) -> Trunk:
    """Build a trunk in fp32 from a checkpoint's tensors; those that are fp32 already may be shared with it.

    Raises
    ------
    ValueError : as in `trunk_tensors`.
    """
    picked = trunk_tensors(arch, tensors, has_pooler=has_pooler)
    trunk = _empty_trunk(arch, has_pooler)
    state = {}
    for ours in trunk.state_dict():
        pieces = [picked[name].float() for name in _their_names(arch, ours)]
        state[ours] = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    trunk.load_state_dict(state, assign=True)
    return trunk


def _empty_trunk(arch: Architecture, has_pooler: bool) -> Trunk:
    """A trunk of shapes without memory: filling 24 x 1024 with random numbers first would take seconds."""
    with torch.device("meta"):
        return Trunk(arch, has_pooler=has_pooler)


def _their_names(arch: Architecture, ours: str) -> tuple[str, ...]:
    """Names of the tensors that make up one of the trunk's, in order."""
    module, _, part = ours.rpartition(".")
    prefix = PREFIXES[arch.family]
    if not module.startswith("layers."):
        return (f"{prefix}.{_TOP[module]}.{part}",)
    _, index, inner = module.split(".", 2)
    layer = _LAYER | (_PRE_NORMS if arch.norm_first else _POST_NORMS)
    return tuple(f"{prefix}.encoder.layer.{index}.{theirs}.{part}" for theirs in layer[inner])


def _full_name(arch: Architecture, name: str) -> str:
    """Today's name with the family's prefix, of a tensor that may have an old one or none."""
    for old, new in _OLD_PARTS.items():
        name = name.replace(old, new)
    is_bare = name.startswith(("embeddings.", "encoder.", "pooler."))
    return f"{PREFIXES[arch.family]}.{name}" if is_bare else name
