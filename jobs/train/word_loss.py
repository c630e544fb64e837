"""Cross-entropy over a vocabulary, fused with the product that makes its logits: for hidden or next words.

The logits of M words over V are the largest thing in a step. Here a slice of them at a time is computed, turned into
its gradient and kept in the product's own precision, so nothing of M x V stands in fp32. Measured in NOTES.md. Given
up: gradients are computed in the forward pass, wanted or not, and second derivatives don't exist.
"""

from __future__ import annotations

from typing import Any

import torch

_SLICE = {"cpu": 2**22, "cuda": 2**27}  # logits at once: what a CPU's cache holds; what keeps a GPU busy


class _WordLoss(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - torch gives them by position
        ctx: Any,
        state_md: torch.Tensor,
        words_vd: torch.Tensor,
        bias_v: torch.Tensor | None,
        targets_m: torch.Tensor,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """Sum of the losses; the gradients are kept for `backward`."""
        state, words = state_md.detach().to(dtype), words_vd.detach().to(dtype)
        bias = None if bias_v is None else bias_v.detach().to(dtype)
        grad_mv = torch.empty(len(state), len(words), dtype=dtype, device=state.device)
        grad_bias_v = None if bias_v is None else torch.zeros(len(words), device=state.device)
        loss = torch.zeros((), device=state.device)
        rows = max(16, _SLICE[state.device.type] // len(words))
        for begin in range(0, len(state), rows):
            cut = slice(begin, begin + rows)
            logs = torch.log_softmax(torch.nn.functional.linear(state[cut], words, bias), 1, dtype=torch.float32)
            loss -= logs.gather(1, targets_m[cut, None]).sum()
            probs = logs.exp_()
            probs.scatter_add_(1, targets_m[cut, None], torch.full_like(probs[:, :1], -1.0))
            if grad_bias_v is not None:
                grad_bias_v += probs.sum(0)
            grad_mv[cut] = probs
        ctx.save_for_backward(
            (grad_mv @ words).to(state_md.dtype),
            (grad_mv.T @ state).to(words_vd.dtype),
            grad_bias_v,
        )
        return loss

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale what was kept."""
        return (*(None if grad is None else grad * scale.to(grad.dtype) for grad in ctx.saved_tensors), None, None)


def word_loss(
    state_md: torch.Tensor, words_vd: torch.Tensor, bias_v: torch.Tensor | None, targets_m: torch.Tensor
) -> torch.Tensor:
    """Sum of the cross-entropy of the true words `targets_m`, given states and the words' vectors; 0 if M is 0."""
    device = state_md.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else words_vd.dtype
    with torch.autocast(device, enabled=False):
        loss: torch.Tensor = _WordLoss.apply(  # type: ignore[no-untyped-call]
            state_md, words_vd, bias_v, targets_m, dtype
        )
    return loss
