"""Attention inside texts of one length: PyTorch's fused kernel, but plain products where a CPU wants gradients.

On a CPU the fused kernel's backward pass takes some ten times as long as its forward pass, a third of a whole training
step (jobs/train/NOTES.md). Here the probabilities are kept instead, as in Megatron-LM's unfused attention, and the
backward pass is four products and one softmax's. Given up: memory of G x H x S x S in the products' precision a layer,
and second derivatives. Shape suffixes: G texts, H heads, S tokens of each, E of a head.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional


def attend(
    query_ghse: torch.Tensor,
    key_ghse: torch.Tensor,
    value_ghse: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    is_causal: bool = False,
) -> torch.Tensor:
    """Each (G, H, S, E), the result as well; `mask`, broadcast over (G, H, S, S), is true where a token may look.

    Scaled dot products (Vaswani et al. 2017, equation 1). `is_causal` stands in for a mask: a token sees those before
    it, and itself.
    """
    assert mask is None or not is_causal
    if query_ghse.requires_grad and query_ghse.device.type == "cpu":
        if is_causal:
            size = query_ghse.shape[-2]
            mask = torch.ones(size, size, dtype=torch.bool).tril_()
        context: torch.Tensor = _Attention.apply(query_ghse, key_ghse, value_ghse, mask)  # type: ignore[no-untyped-call]
        return context
    return functional.scaled_dot_product_attention(
        query_ghse, key_ghse, value_ghse, attn_mask=mask, is_causal=is_causal
    )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """In the precision of what is given; softmax sums in fp32 whatever that is."""
        with torch.autocast("cpu", enabled=False):
            scores = torch.matmul(query * _scale(query), key.mT)
            if mask is not None:
                scores.masked_fill_(~mask, -math.inf)
            probs = torch.softmax(scores, -1)
            ctx.save_for_backward(query, key, value, probs)
            return torch.matmul(probs, value)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Of the products, and of the softmax between them."""
        query, key, value, probs = ctx.saved_tensors
        grad_scores = torch._softmax_backward_data(torch.matmul(grad, value.mT), probs, -1, probs.dtype)
        grad_query = torch.matmul(grad_scores, key).mul_(_scale(query))
        grad_key = torch.matmul(grad_scores.mT, query).mul_(_scale(query))
        return grad_query, grad_key, torch.matmul(probs.mT, grad), None


def _scale(query: torch.Tensor) -> float:
    return 1 / math.sqrt(query.shape[-1])
