"""fp8 linear layers for Hopper GPUs: e4m3 weights with a scale an output channel, activations with one a row.

Scales are found as rows come, as in int8, so a text's numbers don't depend on its neighbours. Everything between the
products stays bf16. Source: Micikevicius et al. 2022 (e4m3, largest value 448); the product is PyTorch's `_scaled_mm`.
"""

from __future__ import annotations

import torch
from torch import nn

from models.trunk import Layer, Trunk

_LARGEST = 448.0
_CAPABILITY = (8, 9)  # the first with fp8 products: Ada, then Hopper


def has_fp8(device: torch.device) -> bool:
    """Whether a device multiplies fp8 in hardware."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _CAPABILITY


class Fp8Linear(nn.Module):
    """bf16 in and out. Sizes are multiples of 16."""

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = _to_fp8(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.t().contiguous())
        self.register_buffer("bias", linear.bias.detach().bfloat16())

    def forward(self, rows_tk: torch.Tensor) -> torch.Tensor:
        """T x K to T x N."""
        values, scale_t1 = _to_fp8(rows_tk)
        product = torch._scaled_mm(values, self.weight.t(), scale_t1, self.scale, out_dtype=torch.bfloat16)
        return product + self.bias


def use_fp8(trunk: Trunk) -> Trunk:
    """Put fp8 in the place of the layers' products, in place. Embeddings, norms and pooler keep their precision."""
    for layer in trunk.layers:
        assert isinstance(layer, Layer)
        for module, name in ((layer.attention, "qkv"), (layer.attention, "output"), (layer, "up"), (layer, "down")):
            setattr(module, name, Fp8Linear(getattr(module, name)))
    return trunk


def _to_fp8(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and the scale of each row, N x 1 in fp32."""
    scale = rows.abs().amax(dim=1, keepdim=True).float().clamp_min(1e-12) / _LARGEST
    return (rows.float() / scale).to(torch.float8_e4m3fn), scale
