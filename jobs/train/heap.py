"""Memory that training gives free stays with the process: a step takes tens of megabytes again that it just gave back.

Left alone, glibc returns each large block to the system and has its pages zeroed when it is asked for again, which is a
fifth of a step on two cores (NOTES.md). Kept, blocks of many sizes leave ever more gaps between them; so what lies
unused is given back after every 32 steps. Given up: some hundred megabytes that other programs could have. Elsewhere
than on glibc nothing of this happens.
"""

from __future__ import annotations

import ctypes

TIDY_EVERY = 32  # steps
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt(3)
_libc = ctypes.CDLL(None)


def keep_memory() -> None:
    """For this process and from now on."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_MMAP_MAX, 0)
        _libc.mallopt(_M_TRIM_THRESHOLD, -1)


def tidy(num_steps: int) -> None:
    """Give back what lies unused, if so many steps taken make it due."""
    if num_steps % TIDY_EVERY == 0 and hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
