"""What a Megatron-LM checkpoint says of its model's shape, held against what its tensors show.

The arguments of the run are believed where they are saved. The oldest checkpoints save none: then sizes are read off
the tensors, and only the number of attention heads, which no tensor shows, has to be given (the 345M releases have 16).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from models.architecture import Architecture
from models.convert.errors import ConversionError

Family = Literal["bert", "gpt"]

LAYER_NORM_EPS = 1e-5  # Megatron-LM's default in every release; transformers' 1e-12 isn't what the weights saw
_SHAPE_345M = (1024, 24)  # hidden size and layers of NVIDIA's releases, which save no arguments
_HEADS_345M = 16
_PADDED_TO = 128  # Megatron-LM's default of --make-vocab-size-divisible-by
_OTHER_NETWORKS = (  # arguments that, when set, make another network than BERT and pre-LN GPT
    "apply_layernorm_1p",
    "group_query_attention",
    "multi_latent_attention",
    "qk_layernorm",
    "squared_relu",
    "swiglu",
)


@dataclass(frozen=True)
class Sizes:
    """The trunk's shape as the checkpoint stores it: `arch.vocab_size` counts the padding rows."""

    family: Family
    arch: Architecture
    vocab_multiple: int
    tanh_gelu: bool


def read_sizes(
    family: Family, arguments: Mapping[str, Any], seen: Mapping[str, int], num_heads: int | None, num_ranks: int
) -> Sizes:
    """Put together the sizes.

    Parameters
    ----------
    arguments : of the training run, may be empty.
    seen : the same sizes as the tensors show them, by Megatron-LM's argument names.
    num_heads : as the user gives it, needed where the checkpoint doesn't say.

    Raises
    ------
    ConversionError : another network, unknown heads, or heads given that aren't the checkpoint's.
    """
    _refuse_other_networks(family, arguments)
    size = {name: int(arguments.get(name) or found) for name, found in seen.items()}
    arch = Architecture(
        vocab_size=size["padded_vocab_size"],
        hidden_size=size["hidden_size"],
        num_hidden_layers=size["num_layers"],
        num_attention_heads=_heads(arguments, size, num_heads),
        intermediate_size=size["ffn_hidden_size"],
        max_position_embeddings=size["max_position_embeddings"],
        layer_norm_eps=float(arguments.get("layernorm_epsilon") or arguments.get("norm_epsilon") or LAYER_NORM_EPS),
    )
    multiple = int(arguments.get("make_vocab_size_divisible_by") or _PADDED_TO) * num_ranks
    return Sizes(family, arch, multiple, _tanh_gelu(family, arguments))


def _heads(arguments: Mapping[str, Any], size: Mapping[str, int], given: int | None) -> int:
    saved = arguments.get("num_attention_heads")
    if saved is None and (size["hidden_size"], size["num_layers"]) == _SHAPE_345M:
        saved = _HEADS_345M
    if saved is None and given is None:
        raise ConversionError("the checkpoint doesn't say how many attention heads it has: give --heads")
    if saved is not None and given is not None and saved != given:
        raise ConversionError(f"the checkpoint has {saved} attention heads, but --heads is {given}")
    return int(saved or given or 0)


def _refuse_other_networks(family: Family, arguments: Mapping[str, Any]) -> None:
    for name in _OTHER_NETWORKS:
        if arguments.get(name):
            raise ConversionError(f"the checkpoint was trained with {name}={arguments[name]!r}, which isn't known here")
    if (norm := arguments.get("normalization", "LayerNorm")) != "LayerNorm":
        raise ConversionError(f"the checkpoint's normalization is {norm!r}; LayerNorm is known")
    positions = arguments.get("position_embedding_type", "learned_absolute")
    if isinstance(positions, str) and positions != "learned_absolute":
        raise ConversionError(f"the checkpoint's position_embedding_type is {positions!r}; learned_absolute is known")
    if family == "gpt" and arguments.get("untie_embeddings_and_output_weights"):
        raise ConversionError("the checkpoint has untied output weights; a GPT with tied ones is known")


def _tanh_gelu(family: Family, arguments: Mapping[str, Any]) -> bool:
    """Whether training used the tanh form of GELU: where nothing is saved, the GPT releases did."""
    if not arguments:
        return family == "gpt"
    return bool(arguments.get("bias_gelu_fusion") or arguments.get("openai_gelu"))
