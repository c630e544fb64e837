"""Memory that training gives free: taken again without the system's help, and given back where it lies unused."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")]

# Pages that the system handed out for 40 blocks of 64 MB, each given back before the next is taken.
FAULTS = """
import resource, sys
import torch
from jobs.train.heap import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
for _ in range(3):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

# Megabytes held after 64 MB in blocks were freed from under one that stays, before and after tidying up.
GAPS = """
import torch
from jobs.train.heap import TIDY_EVERY, keep_memory, tidy
def held():
    return int(open("/proc/self/statm").read().split()[1]) // 256
keep_memory()
blocks = [torch.ones(2**18) for _ in range(65)]
del blocks[:64]
tidy(TIDY_EVERY + 1)
before = held()
tidy(2 * TIDY_EVERY)
print(before - held())
"""


def printed(code: str, *arguments: str) -> int:
    """What a process of its own prints, as the settings of its heap can't be taken back."""
    command = [sys.executable, "-c", code, *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout)


def test_a_block_given_free_is_not_asked_for_again() -> None:
    assert printed(FAULTS, "kept") * 4 < printed(FAULTS, "returned")


def test_what_lies_unused_between_blocks_is_given_back() -> None:
    assert printed(GAPS) >= 60
