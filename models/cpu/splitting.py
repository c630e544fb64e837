"""Neurons whose outgoing weights dwarf the others', laid out several times, each copy with a part of the weights.

The block computes the same: what one neuron hands on, its copies hand on together. But a row of int8 weights has one
step, a 127th of its largest weight, and one such neuron makes it coarse for all others (outlier channel splitting,
Zhao et al. 2019, "Improving Neural Network Quantization without Retraining using Outlier Channel Splitting").
"""

from __future__ import annotations

import torch

NUM_MORE = 32  # of 1,536 neurons 2 % more work; a multiple of Steps.LANES


def split_outliers(
    up: torch.Tensor, up_bias: torch.Tensor, down: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The weights of a feed-forward block with `NUM_MORE` more neurons.

    Parameters
    ----------
    up, up_bias, down : K x D, K and D x K, of the K neurons.
    """
    counts = num_copies(down)
    return (
        up.repeat_interleave(counts, dim=0),
        up_bias.repeat_interleave(counts),
        (down / counts).repeat_interleave(counts, dim=1),
    )


def num_copies(down: torch.Tensor) -> torch.Tensor:
    """How often to lay out each of K neurons: one more, `NUM_MORE` times, of that which makes rows coarsest (K)."""
    sizes, counts = down.abs(), torch.ones(down.shape[1], dtype=torch.int64)
    for _ in range(NUM_MORE):
        shares = sizes / counts
        largest, second = shares.topk(2, dim=1).values.square().unbind(dim=1)
        excess = torch.zeros(down.shape[1]).index_add(0, shares.argmax(dim=1), largest - second)
        counts[excess.argmax()] += 1
    return counts
