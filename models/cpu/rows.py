"""Matrices of rows on a CPU, as stored between two steps, and the compiled steps on them (kernels.c).

Everything here runs on the calling thread and releases the GIL. Shapes: B texts, T rows, D hidden, N any width.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.cpu.build import load_library

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.uint8: 2}  # as the enum in kernels.c
ZERO, ZERO_AFTER_GELU = 128, 32  # the byte that stands for 0, as in kernels.c
_SIZE, _PLACE, _FLAG, _REAL = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int, ctypes.c_float
_SIGNATURES = {
    "embed": [_SIZE, _SIZE, *[_PLACE] * 6],
    "add_norm": [_SIZE, _SIZE, _PLACE, _PLACE, _FLAG, *[_PLACE] * 4, _REAL, _FLAG, _PLACE, _FLAG, _PLACE],
    "activate": [_SIZE, _SIZE, _PLACE, _FLAG, _PLACE, _PLACE, _FLAG, _PLACE, _FLAG, _PLACE],
    "attention": [
        *(_SIZE, _PLACE, _FLAG, _SIZE, _SIZE, _PLACE, _SIZE, _PLACE, _PLACE, _SIZE, _FLAG),
        *[_PLACE] * 6,
    ],
}


@dataclass(frozen=True)
class Rows:
    """T x N `values` in fp32, bf16 or bytes.

    `scale` (T): real values are `scale * (bytes - zero)`, or `scale * values` of a product whose factor was such bytes.
    `zero` is `ZERO`, of rows that come from GELU `ZERO_AFTER_GELU`: nothing there is under -0.17.
    `bias` (N) is still to be added. Both None: the values are real.
    """

    values: torch.Tensor
    scale: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    def first(self, places: torch.Tensor) -> Rows:
        """Only the rows at `places`."""
        scale = None if self.scale is None else self.scale.index_select(0, places)
        return Rows(self.values.index_select(0, places), scale, self.bias)


class Steps:
    """The compiled steps. Sizes along a row must be multiples of `LANES`."""

    LANES = 16

    def __init__(self, library: ctypes.CDLL) -> None:
        self._calls = {}
        for name, types in _SIGNATURES.items():
            call = getattr(library, name)
            call.argtypes, call.restype = types, None
            self._calls[name] = call

    def embed(
        self, ids: NDArray[np.int32], positions: NDArray[np.int32], tables: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        """T x D fp32: the sum of the word's, the position's and the first token type's embedding."""
        words, places, types = tables
        hidden_td = torch.empty(len(ids), words.shape[1])
        arrays = (ids.ctypes.data, positions.ctypes.data)
        self._calls["embed"](*hidden_td.shape, *arrays, *map(_place, (words, places, types, hidden_td)))
        return hidden_td

    def add_norm(
        self, hidden_td: torch.Tensor, delta: Rows | None, norm: nn.LayerNorm, dtype: torch.dtype, *, post: bool = False
    ) -> Rows:
        """Add `delta` to `hidden_td` in place, and give the layer norm of the sum as rows of `dtype`.

        `post`: the norm itself also takes the place of `hidden_td` (post-LN).
        """
        values, scale = _empty(hidden_td.shape, dtype)
        delta = delta or Rows(hidden_td.new_empty(0))
        self._calls["add_norm"](
            *hidden_td.shape,
            _place(hidden_td),
            _place(delta.values) if delta.values.numel() else None,
            KINDS[delta.values.dtype],
            *map(_place, (delta.scale, delta.bias, norm.weight, norm.bias)),
            *(norm.eps, int(post), _place(values), KINDS[dtype], _place(scale)),
        )
        return Rows(values, scale)

    def activate(self, rows: Rows, dtype: torch.dtype, *, gelu: bool) -> Rows:
        """The real values of `rows`, through GELU if asked for, as rows of `dtype`."""
        values, scale = _empty(rows.values.shape, dtype)
        self._calls["activate"](
            *rows.values.shape,
            *(_place(rows.values), KINDS[rows.values.dtype], _place(rows.scale), _place(rows.bias)),
            *(int(gelu), _place(values), KINDS[dtype], _place(scale)),
        )
        return Rows(values, scale)

    def attention(self, query: Rows, key_value: Rows, starts: NDArray[np.int64], num_heads: int) -> Rows:
        """Context of each row of `query` (T x D, or B x D for the first token of each text alone).

        `key_value` (T x 2D) holds keys, then values; `starts` (B + 1) where each text begins in it.
        """
        num, width = query.values.shape
        context = torch.empty(num, width, dtype=query.values.dtype)
        after = width * query.values.element_size()
        biases: tuple[int | None, int | None, int | None] = (None, None, None)
        if query.bias is not None and key_value.bias is not None:
            keys = key_value.bias.data_ptr()
            biases = (query.bias.data_ptr(), keys, keys + width * key_value.bias.element_size())
        self._calls["attention"](
            *(len(starts) - 1, starts.ctypes.data, int(num != key_value.values.shape[0])),
            *(num_heads, width // num_heads, _place(query.values), query.values.stride(0)),
            *(_place(key_value.values), key_value.values.data_ptr() + after, key_value.values.stride(0)),
            *(KINDS[query.values.dtype], _place(query.scale), _place(key_value.scale), *biases, _place(context)),
        )
        return Rows(context)


def load_steps() -> Steps | None:
    """The compiled steps, or None where they can't be compiled."""
    library = load_library()
    return None if library is None else Steps(library)


def _empty(shape: torch.Size, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
    return torch.empty(shape, dtype=dtype), torch.empty(shape[0]) if dtype == torch.uint8 else None


def _place(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
