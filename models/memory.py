"""Telling "out of memory" from any other error: on a GPU it is a type, on a CPU only a message."""

from __future__ import annotations

import torch

_CPU_MESSAGE = "can't allocate memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether less at once could have gone well."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and _CPU_MESSAGE in str(error)
    )
