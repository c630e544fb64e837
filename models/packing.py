"""Packed batches: the tokens of many texts in one row of T tokens, with no padding between them.

A linear layer doesn't care where one text ends; only attention does. Where PyTorch has no attention over ragged texts
(everywhere but CUDA in bf16), it runs over groups of texts of near-equal length, padded to the longest of the group, so
the only padded slots are inside those groups (`MAX_STRETCH`).
Given up: a group whose texts differ in length costs a gather and a scatter of attention's input and output per layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

MAX_STRETCH = 1.125  # longest text of a group over its shortest: bounds padding inside attention to about 6 %
SLACK_TOKENS = 4  # very short texts may differ by this many tokens whatever the ratio


@dataclass(frozen=True)
class AttentionGroup:
    """Texts of near-equal length, attended together as a padded G x S rectangle.

    `slots` (G*S) says which of the group's tokens stands in each slot (padding repeats the text's first token); `real`
    lists the slots that aren't padding; `mask` (G, 1, 1, S) is None where all are real.
    """

    num_texts: int
    length: int
    slots: torch.Tensor
    real: torch.Tensor
    mask: torch.Tensor | None

    @property
    def num_tokens(self) -> int:
        """The real ones of its texts."""
        return int(self.real.numel())

    def to(self, device: torch.device) -> AttentionGroup:
        """The same group on another device."""
        mask = None if self.mask is None else _send(self.mask, device)
        return replace(self, slots=_send(self.slots, device), real=_send(self.real, device), mask=mask)


@dataclass(frozen=True)
class PackedBatch:
    """Token ids of B texts, end to end: `input_ids` (T), `positions` (T), `bounds` (B + 1: where each begins and ends).

    Without `groups` attention is to run on the ragged texts themselves, of at most `longest` tokens.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    bounds: torch.Tensor
    longest: int
    groups: tuple[AttentionGroup, ...]

    @property
    def num_tokens(self) -> int:
        """T, the real tokens."""
        return int(self.input_ids.numel())

    @property
    def starts(self) -> torch.Tensor:
        """(B,) where each text begins."""
        return self.bounds[:-1]

    def to(self, device: torch.device) -> PackedBatch:
        """The same batch on another device."""
        ids, positions, bounds = (_send(part, device) for part in (self.input_ids, self.positions, self.bounds))
        return PackedBatch(ids, positions, bounds, self.longest, tuple(group.to(device) for group in self.groups))


def _send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """To a GPU from pinned memory, so that the copy runs beside what computes there."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def pack(input_ids: NDArray[np.integer], lengths: NDArray[np.integer], *, grouped: bool = True) -> PackedBatch:
    """Pack texts that lie end to end.

    Parameters
    ----------
    input_ids : (T,) token ids of all texts, one after the other.
    lengths : (B,) tokens of each text, each at least 1, summing to T. Neighbours of like length make fewer groups.
    grouped : whether attention needs groups: everywhere but in flash attention over ragged texts.

    Raises
    ------
    ValueError : a length under 1, or lengths that don't sum to T.
    """
    sizes = lengths.astype(np.int64)
    if sizes.size == 0 or sizes.min() < 1 or int(sizes.sum()) != input_ids.size:
        raise ValueError(f"lengths must be at least 1 and sum to {input_ids.size} tokens, got sum {int(sizes.sum())}")
    starts = np.cumsum(sizes) - sizes
    positions = np.arange(input_ids.size) - np.repeat(starts, sizes)
    return PackedBatch(
        input_ids=torch.from_numpy(input_ids.astype(np.int64)),
        positions=torch.from_numpy(positions),
        bounds=torch.from_numpy(np.append(starts, input_ids.size).astype(np.int32)),
        longest=int(sizes.max()),
        groups=tuple(_group(starts[i:j], sizes[i:j]) for i, j in _runs(sizes)) if grouped else (),
    )


def _runs(sizes: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Cut the texts, in their order, into runs whose longest is within `MAX_STRETCH` of their shortest."""
    runs: list[tuple[int, int]] = []
    begin, low, high = 0, int(sizes[0]), int(sizes[0])
    for index, size in enumerate(sizes.tolist()):
        low, high = min(low, size), max(high, size)
        if high > max(low * MAX_STRETCH, low + SLACK_TOKENS):
            runs.append((begin, index))
            begin, low, high = index, size, size
    runs.append((begin, len(sizes)))
    return runs


def _group(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> AttentionGroup:
    starts, longest = starts - starts[0], int(sizes.max())
    column = np.arange(longest)
    is_real = column[None, :] < sizes[:, None]
    slots = np.where(is_real, starts[:, None] + column, starts[:, None]).reshape(-1)
    real = np.flatnonzero(is_real)
    return AttentionGroup(
        num_texts=len(sizes),
        length=longest,
        slots=torch.from_numpy(slots),
        real=torch.from_numpy(real),
        mask=None if is_real.all() else torch.from_numpy(is_real)[:, None, None, :],
    )
