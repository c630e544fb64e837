"""The forward pass on a CPU whose trunk runs on compiled steps; see `models.cpu.trunk`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from models.cpu.rows import Steps
from models.cpu.trunk import FusedTrunk
from models.pooling import pool
from models.precision import Precision
from models.readout import Readout
from models.trunk import Trunk


class CpuForward:
    """All heads off one pass, on the calling thread; several calls may run at once. Heads and pooler are fp32."""

    def __init__(self, trunk: Trunk, readout: Readout, steps: Steps, precision: Precision) -> None:
        self.first_only = not readout.reads_every_token
        self._readout, self._pooler = readout, trunk.pooler
        self._trunk = FusedTrunk(trunk, steps, precision)

    @torch.inference_mode()
    def __call__(self, ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> list[torch.Tensor]:
        """Outputs of each head for B texts: `ids` (T) end to end, `lengths` (B)."""
        hidden = self._trunk(ids, lengths, first_only=self.first_only)
        sizes = torch.ones(len(lengths), dtype=torch.int64) if self.first_only else torch.from_numpy(lengths).long()
        starts = sizes.cumsum(0) - sizes
        pooled = {pooling: pool(hidden, starts, pooling, self._pooler) for pooling in self._readout.poolings}
        return self._readout(hidden, pooled)
