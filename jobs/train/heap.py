"""Memory that training gives free stays with the process: a step takes tens of megabytes again that it just gave back.

Left alone, glibc returns each large block to the system and has its pages zeroed when it is asked for again, which is a
fifth of a step on two cores (NOTES.md). Given up: other programs don't get that memory before the training ends.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt(3)


def keep_memory() -> None:
    """For this process and from now on; elsewhere than on glibc nothing changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
