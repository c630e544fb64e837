"""From hidden states to one vector a text."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from models.architecture import Pooling


def pool(hidden_td: torch.Tensor, starts: torch.Tensor, pooling: Pooling, pooler: nn.Linear | None) -> torch.Tensor:
    """B x D. A mean is taken in fp32; the others have the precision of `hidden_td`.

    Parameters
    ----------
    hidden_td : states of the texts' tokens, end to end; or of each text's first token alone, unless a mean is wanted.
    starts : (B,) where each text begins in `hidden_td`.
    pooler : BERT's dense layer on the first token, for the pooling of that name.
    """
    if pooling == "mean":
        every = torch.arange(len(hidden_td), dtype=starts.dtype, device=starts.device)
        return functional.embedding_bag(every, hidden_td.float(), starts, mode="mean")
    first_bd = hidden_td.index_select(0, starts)
    if pooling == "first":
        return first_bd
    assert pooler is not None, "a trunk is loaded with the pooler that its heads read"
    return torch.tanh(pooler(first_bd))
