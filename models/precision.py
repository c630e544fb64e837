"""Precisions a trunk can run in, and which one a machine is asked for when the user doesn't say."""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["fp32", "bf16", "int8", "fp8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def choose_precision(asked: Literal["auto"] | Precision, *, on_gpu: bool) -> Precision:
    """Give bf16 on a GPU and on a CPU that multiplies it in hardware (AMX or AVX512-BF16), fp32 elsewhere.

    `auto` looks at the machine that plans the run, so that one run has one precision; where the scoring machines
    differ from it, say which.
    """
    import torch  # noqa: PLC0415 - see above

    if asked != "auto":
        return asked
    has_bf16 = on_gpu or torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if has_bf16 else "fp32"
