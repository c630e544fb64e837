"""How batches get onto a device: several under way at once, so that one is staged while another computes.

CPU: batches are spread over threads, each on one core; a batch is never split, so no core waits for another at a
barrier and the numbers don't depend on how many there are. GPU: pinned staging and two streams taken in turn, so that
the copies of one batch run beside the products of the other. Given up: one lone short text is no faster on more cores.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from models.forward import Forward

_STREAMS = 2


class Pending(Protocol):
    """A batch under way."""

    def result(self) -> list[torch.Tensor]:
        """Wait for the outputs of each head, in fp32 on the CPU."""


class Runner(Protocol):
    """Starts batches on a device; up to `depth` of them may be under way at once."""

    depth: int

    def submit(self, ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> Pending:
        """Start one batch of texts: `ids` (T) end to end, `lengths` (B)."""


class ThreadRunner:
    """One batch on one thread. `threads` compute; PyTorch's own threading is off inside them."""

    def __init__(self, forward: Forward, threads: int) -> None:
        self.depth = 2 * threads
        self._forward = forward
        self._pool = ThreadPoolExecutor(threads, "score", initializer=torch.set_num_threads, initargs=(1,))

    def submit(self, ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> Pending:
        """Queue the batch."""
        return self._pool.submit(self._forward, ids, lengths)


class StreamRunner:
    """One batch on one of two CUDA streams."""

    def __init__(self, forward: Forward, device: torch.device) -> None:
        self.depth = _STREAMS
        self._forward = forward
        self._streams = cycle([torch.cuda.Stream(device) for _ in range(_STREAMS)])  # type: ignore[no-untyped-call]

    def submit(self, ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> Pending:
        """Queue copies and kernels, and return before they are done."""
        with torch.cuda.stream(next(self._streams)):
            outputs = self._forward(ids, lengths)
            on_host = [
                torch.empty(o.shape, dtype=o.dtype, pin_memory=True).copy_(o, non_blocking=True) for o in outputs
            ]
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        return _Copied(done, on_host)


class _Copied:
    def __init__(self, done: torch.cuda.Event, outputs: list[torch.Tensor]) -> None:
        self._done, self._outputs = done, outputs

    def result(self) -> list[torch.Tensor]:
        self._done.synchronize()
        return self._outputs


def start_runner(forward: Forward, device: torch.device, threads: int) -> Runner:
    """The runner for a device."""
    return StreamRunner(forward, device) if device.type == "cuda" else ThreadRunner(forward, threads)
