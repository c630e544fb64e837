"""The machine that a measurement was made on, and its own limit at the trunk's shapes."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import torch

from models.architecture import Architecture
from models.limits import matmul_flops_per_s
from models.precision import Precision

_INSTRUCTIONS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "i8mm",
    "sve",
)
_LIMIT_S = 0.5


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def describe() -> dict[str, object]:
    """CPU, cores, instruction sets and versions."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    flags = set(_field(info, "flags").split()) | set(_field(info, "Features").split())
    return {
        "cpu": _field(info, "model name") or platform.processor() or platform.machine(),
        "cores": num_cores(),
        "instructions": " ".join(name for name in _INSTRUCTIONS if name in flags) or "unknown",
        "load average": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "torch": version("torch"),
    }


def _field(info: str, key: str) -> str:
    lines = (line.partition(":") for line in info.splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == key), "")


def limit_of(arch: Architecture, precision: str, device: str = "cpu") -> float:
    """Operations a second of the trunk's matrix products: the best of half a second. int8 is held against bf16."""
    against: Precision = "fp32" if precision == "fp32" else "bf16"
    deadline, best = time.perf_counter() + _LIMIT_S, 0.0
    while time.perf_counter() < deadline or not best:
        best = max(best, matmul_flops_per_s(arch, against, device) or 0.0)
    return best


def use_threads(threads: int) -> None:
    """Measure the limit with as many threads as the contenders have."""
    torch.set_num_threads(threads)
