"""Shards of tensor-parallel ranks, joined into whole tensors of the trunk.

Word embeddings, the fused query-key-value and the layer up are split by rows, the attention's output and the layer down
by columns (Shoeybi et al. 2019, section 3); all else is the same on each rank. Every shard is held against the shape it
must have before anything is joined. Query, key and value are fused in an order that the checkpoint's version tells:

    0          3 x heads x head size      also the order of our trunk
    1.0        heads x head size x 3
    2.0, 3.0   heads x 3 x head size

and each rank holds whole heads, so shards are put in order one by one and joined along their heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from models.convert.errors import ConversionError
from models.convert.sizes import Sizes
from models.trunk import Trunk

_BY_ROWS = ("word_embeddings.weight", "attention.qkv.weight", "attention.qkv.bias", "up.weight", "up.bias")
_BY_COLUMNS = ("attention.output.weight", "down.weight")
_BERT_ONLY = ("token_type_embeddings.", "pooler.")


def whole_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Give the shapes of all trunk tensors that a checkpoint of these sizes has, by trunk name."""
    with torch.device("meta"):
        state = Trunk(sizes.arch).state_dict()
    skipped = _BERT_ONLY if sizes.family == "gpt" else ()
    return {name: tuple(tensor.shape) for name, tensor in state.items() if not name.startswith(skipped)}


def split_axis(name: str) -> int | None:
    """Give the axis along which ranks share a tensor, None if each holds it whole."""
    if name.endswith(_BY_ROWS):
        return 0
    return 1 if name.endswith(_BY_COLUMNS) else None


def merge(
    sizes: Sizes, version: float, ranks: Sequence[Mapping[str, torch.Tensor]], origins: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    """Join the ranks' tensors.

    Parameters
    ----------
    ranks : for each tensor-parallel rank, its tensors by trunk name.
    origins : what the checkpoint calls each of them, for messages.

    Raises
    ------
    ConversionError : a tensor is missing, too many, or of another shape; it is named with both shapes.
    """
    shapes = whole_shapes(sizes)
    for rank, tensors in enumerate(ranks):
        for name, shape in shapes.items():
            if name not in tensors:
                raise ConversionError(f"mp_rank_{rank:02d} lacks the tensor {name} {shape} (named as in our trunk)")
            _check_shape(name, origins[name], tensors[name], _shard_shape(name, shape, len(ranks)), rank)
        if extra := sorted(tensors.keys() - shapes.keys()):
            raise ConversionError(
                f"mp_rank_{rank:02d} holds {origins[extra[0]]}, which isn't part of a {sizes.family} of "
                f"{sizes.arch.num_hidden_layers} layers"
            )
    return {name: _joined(name, [tensors[name] for tensors in ranks], sizes, version) for name in shapes}


def _shard_shape(name: str, shape: tuple[int, ...], num_ranks: int) -> tuple[int, ...]:
    axis = split_axis(name)
    if axis is None:
        return shape
    return (*shape[:axis], shape[axis] // num_ranks, *shape[axis + 1 :])


def _check_shape(name: str, origin: str, tensor: torch.Tensor, expected: tuple[int, ...], rank: int) -> None:
    if tuple(tensor.shape) != expected:
        raise ConversionError(
            f"tensor {origin} of mp_rank_{rank:02d} has shape {tuple(tensor.shape)}, expected {expected} ({name})"
        )


def _joined(name: str, shards: Sequence[torch.Tensor], sizes: Sizes, version: float) -> torch.Tensor:
    if "attention.qkv." in name:
        ordered = [_in_order(shard, version, sizes.arch.head_dim) for shard in shards]  # each (3, heads, head size, …)
        return torch.cat(ordered, dim=1).flatten(0, 2)
    axis = split_axis(name)
    return shards[0].contiguous() if axis is None else torch.cat(list(shards), dim=axis)


def _in_order(shard: torch.Tensor, version: float, head_dim: int) -> torch.Tensor:
    rest = shard.shape[1:]
    if version == 0:
        return shard.reshape(3, -1, head_dim, *rest)
    if version == 1:
        return shard.reshape(-1, head_dim, 3, *rest).movedim(2, 0)
    return shard.reshape(-1, 3, head_dim, *rest).movedim(1, 0)
