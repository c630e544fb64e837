"""Compiles `kernels.c` for the CPU at hand, once a machine, and loads it.

Seconds at the first bundle that is loaded, nothing after: the library is cached under a digest of source, compiler and
instruction set, so machines that share a home don't share code that one of them can't run. Where there is no compiler
the packed trunk runs on PyTorch's own operators, slower, and the log says so. Given up: a wheel with compiled code,
which would have to be built for the least of all machines, or for each.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from models.cache import cache_root

SOURCE = Path(__file__).with_name("kernels.c")
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-std=gnu11", "-shared", "-fPIC")
_TIMEOUT_S = 120

log = logging.getLogger("verbatim.models")


@lru_cache(maxsize=1)
def load_library() -> ctypes.CDLL | None:
    """The compiled kernels, or None if this machine can't compile them."""
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        log.warning("no C compiler (cc) on this machine: the trunk runs on PyTorch's operators, slower")
        return None
    try:
        return ctypes.CDLL(str(_compiled(compiler, cache_root() / "kernels")))
    except (OSError, subprocess.SubprocessError) as error:
        reason = str(getattr(error, "stderr", None) or error).strip()[:500]
        log.warning("kernels don't compile with %s, the trunk runs on PyTorch's operators: %s", compiler, reason)
        return None


def _compiled(compiler: str, folder: Path) -> Path:
    library = folder / f"{_digest(compiler)}.so"
    if library.is_file():
        return library
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with FileLock(f"{library}.lock"):
        if not library.is_file():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                built = Path(scratch) / library.name
                _run(compiler, *FLAGS, str(SOURCE), "-o", str(built), "-lm")
                built.replace(library)
    return library


def _digest(compiler: str) -> str:
    parts = (SOURCE.read_text(encoding="utf-8"), " ".join(FLAGS), _run(compiler, "--version"), _instruction_set())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _instruction_set() -> str:
    """What sets this CPU apart from another on which the same code may not run."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    wanted = ("flags", "Features", "model", "cpu family", "CPU part")
    return "\n".join([platform.machine(), *sorted({line for line in lines if line.startswith(wanted)})])


def _run(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)  # noqa: S603
    return done.stdout
