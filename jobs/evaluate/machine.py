"""What the figures were measured on: the processor or GPU by name, as its driver tells it."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch


def describe(device: str) -> str:
    """For example `Intel(R) Xeon(R) Platinum 8488C (AVX512, AMX)`, or the GPU's name."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    extras = ", AMX" if torch.cpu._is_amx_tile_supported() else ""
    return f"{_processor()} ({torch.backends.cpu.get_cpu_capability()}{extras})"


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.machine()
