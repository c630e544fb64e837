"""How much memory a process has taken: resident on a CPU machine, allocated on a GPU."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def forget_peak(device: str) -> None:
    """Begin a new peak. Where the kernel doesn't allow it, the peak since the process began stays."""
    if device != "cpu":
        import torch  # noqa: PLC0415 - most contenders don't need it here

        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError):
        _CLEAR.write_text("5")


def peak_bytes(device: str) -> int:
    """Most memory held since the last `forget_peak`."""
    if device != "cpu":
        import torch  # noqa: PLC0415 - most contenders don't need it here

        return int(torch.cuda.max_memory_allocated())
    return _status("VmHWM")


def resident_bytes() -> int:
    """Memory that this process holds now."""
    return _status("VmRSS")


def _status(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    assert found is not None, f"{_STATUS} has no {key}"
    return int(found[1]) * 1024
