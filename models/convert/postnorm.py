"""A BERT that Megatron-LM trained with the residuals of the original one, `--apply-residual-connection-post-layernorm`.

There a block adds to what its norm gave, r = n(h) + f(n(h)), where pre-LN adds to what the norm was given. So the norm
before a block is BERT's norm after the block before it, and the last one is BERT's after the last block: the same
weights one place further on make a post-LN trunk of exactly the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

POST_NORM = "apply_residual_connection_post_layernorm"


def to_postnorm(tensors: Mapping[str, torch.Tensor], num_layers: int) -> dict[str, torch.Tensor]:
    """Tensors under a pre-LN trunk's names, under those of a post-LN trunk."""
    kinds = ("attention_norm", "feed_forward_norm")
    norms = [f"layers.{layer}.{kind}" for layer in range(num_layers) for kind in kinds]
    moved = dict(zip([*norms, "norm"], ["embedding_norm", *norms], strict=True))
    named = {}
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        named[f"{moved.get(module, module)}.{part}"] = tensor
    return named
