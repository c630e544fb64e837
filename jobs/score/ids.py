"""Ids that stand in more than one unit: counted after the scoring, on the cluster, in bounded memory.

Within a unit a second row with the same id is rejected. Across units that would make one unit's output depend on
another's, so there both rows are scored and the manifest says how many ids came again. Ids are compared by a 64-bit
hash (one false alarm in ten thousand sets of 50 million rows), a slice of the hash space at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray

from jobs.score.layout import SetLayout

_ROWS_A_SLICE = 50_000_000  # 400 MB of hashes held at once
_UNITS_A_TASK = 64


def count_repeated(layout: SetLayout, units: Sequence[str], num_rows: int) -> int:
    """Number of rows whose id an other row of the set has already."""
    num_slices = 1 + num_rows // _ROWS_A_SLICE
    chunks = [tuple(units[i : i + _UNITS_A_TASK]) for i in range(0, len(units), _UNITS_A_TASK)]
    hash_ids = ray.remote(num_cpus=0.1)(_hash_ids)
    repeated = 0
    for number in range(num_slices):
        parts = ray.get([hash_ids.remote(layout, chunk, number, num_slices) for chunk in chunks])
        hashes = np.concatenate(parts) if parts else np.empty(0, np.uint64)
        repeated += len(hashes) - len(np.unique(hashes))
    return repeated


def _hash_ids(layout: SetLayout, units: tuple[str, ...], number: int, num_slices: int) -> NDArray[np.uint64]:
    """Hashes of the units' ids that fall into slice `number`."""
    root, found = layout.root, [np.empty(0, np.uint64)]
    for unit in units:
        with root.open(f"{layout.scores}/{unit}.parquet", scattered=True) as file:
            ids = pq.read_table(file, columns=["id"])["id"].to_numpy()
        hashes = pd.util.hash_array(ids, categorize=False)
        found.append(hashes[hashes % num_slices == number])
    return np.concatenate(found)
