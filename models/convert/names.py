"""Megatron's tensor names, of every age, to the names of our trunk.

    language_model.transformer.layers.0.attention.query_key_value.weight        2019-2021, the 345M releases
    language_model.encoder.layers.0.self_attention.query_key_value.weight       to 2023
    decoder.layers.0.self_attention.linear_qkv.weight                           Megatron-Core
    decoder.layers.0.self_attention.linear_qkv.layer_norm_weight                its norms fused by Transformer Engine

all stand in `layers.0.…`. What belongs to training alone (heads of masked words, sentence order and next words) is
dropped by name; a name that is neither is an error, since a tensor left out may be one that scores depend on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from models.convert.errors import ConversionError

_TOP = {
    "embedding.word_embeddings": "word_embeddings",
    "embedding.position_embeddings": "position_embeddings",
    "embedding.tokentype_embeddings": "token_type_embeddings",
    "final_layernorm": "norm",
    "final_norm": "norm",
    "pooler.dense": "pooler",
}
_IN_LAYER = {
    "input_layernorm": "attention_norm",
    "self_attention.linear_qkv.layer_norm": "attention_norm",
    "attention.query_key_value": "attention.qkv",
    "self_attention.query_key_value": "attention.qkv",
    "self_attention.linear_qkv": "attention.qkv",
    "attention.dense": "attention.output",
    "self_attention.dense": "attention.output",
    "self_attention.linear_proj": "attention.output",
    "post_attention_layernorm": "feed_forward_norm",
    "pre_mlp_layernorm": "feed_forward_norm",
    "mlp.linear_fc1.layer_norm": "feed_forward_norm",
    "mlp.dense_h_to_4h": "up",
    "mlp.linear_fc1": "up",
    "mlp.dense_4h_to_h": "down",
    "mlp.linear_fc2": "down",
}
_PREFIX = re.compile(r"^(?:model\.)?(?:module\.)*(?:language_model\.)?(?:(?:transformer|encoder|decoder)\.)?")
_LAYER = re.compile(r"^layers\.(\d+)\.(.+)$")
_PART = re.compile(r"^(.+)[._](weight|bias)$")
_DROPPED = re.compile(r"(^(lm_head|binary_head|output_layer|word_embeddings_for_head)\.)|_extra_state")


def trunk_name(name: str, first_layer: int) -> str | None:
    """Give the trunk's name of a tensor, or None for one that is dropped.

    Parameters
    ----------
    name : as the checkpoint has it.
    first_layer : how many layers the earlier pipeline stages hold; names count from 0 in each.

    Raises
    ------
    ConversionError : the name isn't known.
    """
    plain = _PREFIX.sub("", name)
    if _DROPPED.search(plain):
        return None
    layer = _LAYER.match(plain)
    part = _PART.match(layer[2] if layer else plain)
    found = (_IN_LAYER if layer else _TOP).get(part[1]) if part else None
    if part is None or found is None:
        raise ConversionError(f"tensor {name} isn't known in a Megatron-LM BERT or GPT")
    return f"layers.{int(layer[1]) + first_layer}.{found}.{part[2]}" if layer else f"{found}.{part[2]}"


def num_layers(names: Iterable[str]) -> int:
    """How many layers a shard holds."""
    layers = (_LAYER.match(_PREFIX.sub("", name)) for name in names)
    return max((int(layer[1]) + 1 for layer in layers if layer), default=0)
