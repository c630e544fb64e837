"""Attention with gradients on a CPU against PyTorch's fused kernel."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from models.attention import attend

SHAPE = (3, 2, 7, 4)  # G, H, S, E
Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def inputs(dtype: torch.dtype) -> Three:
    torch.manual_seed(0)
    query, key, value = (torch.randn(SHAPE).to(dtype).requires_grad_() for _ in range(3))
    return query, key, value


def masks() -> torch.Tensor:
    """(G, 1, 1, S) one text is whole, the others end early."""
    return torch.arange(SHAPE[2]) < torch.tensor([7, 5, 1])[:, None, None, None]


@pytest.mark.parametrize(("is_masked", "is_causal"), [(False, False), (True, False), (False, True)])
def test_values_and_gradients_are_the_fused_kernels(*, is_masked: bool, is_causal: bool) -> None:
    mask = masks() if is_masked else None
    query, key, value = three = inputs(torch.float32)
    context = attend(query, key, value, mask, is_causal=is_causal)
    expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=is_causal)
    torch.testing.assert_close(context, expected, atol=1e-6, rtol=0)
    way = torch.randn(SHAPE)
    ours, theirs = (torch.autograd.grad(result, three, way) for result in (context, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_gradients_are_those_of_differences() -> None:
    def masked(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return attend(query, key, value, masks())

    assert torch.autograd.gradcheck(masked, inputs(torch.float64))


def test_half_precision_is_within_its_rounding() -> None:
    query, key, value = half = inputs(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        context = attend(query, key, value, masks())
    assert context.dtype == torch.bfloat16
    query, key, value = full = inputs(torch.float32)
    exact = attend(query, key, value, masks())
    torch.testing.assert_close(context.float(), exact, atol=0.03, rtol=0.03)
    ours, theirs = torch.autograd.grad(context.sum(), half), torch.autograd.grad(exact.sum(), full)
    for own, other in zip(ours, theirs, strict=True):
        assert float((own.float() - other).norm()) < 0.03 * float(other.norm())
