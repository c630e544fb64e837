"""The end of a unit's way: scores to one object in the store, and a receipt.

A unit's whole output is one object, however many rows each verbatim yields: it is there or it isn't, never in part.
Rejected rows are put first and the scores last, because the presence of the scores says that the unit is done. Equal
units give equal bytes, so a unit that is written twice is the same object. The receipt's counts also stand in the
object's own metadata: a later run reads them there without opening the input again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.stores import Store
from jobs.score.layout import SetLayout

_METADATA_KEY = b"verbatim"


@dataclass(frozen=True)
class Counts:
    """What a unit held. `rows_in == rows_scored + rows_rejected`; `texts` are the different ones among the scored."""

    rows_in: int
    rows_scored: int
    rows_rejected: int
    texts: int
    tokens: int

    def __add__(self, other: Self) -> Counts:
        """Sum of two."""
        return Counts(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


def astuple(counts: Counts) -> tuple[int, ...]:
    """The five numbers in order."""
    return tuple(asdict(counts).values())


@dataclass(frozen=True)
class ScoredUnit:
    """A unit with its scores.

    `scores` has at least one row for each of the `rows_scored` verbatims; one that yields several still counts once.
    `stats`: `texts`, `tokens`, `score_s`, `flops`, `limit_flops_per_s`, `halved` of the forward passes.
    """

    name: str
    rows_in: int
    rows_scored: int
    stats: dict[str, Any]
    scores: pa.Table
    rejected: pa.Table


def write_unit(unit: ScoredUnit, layout: SetLayout) -> pa.Table:
    """Write one unit; gives its receipt: `unit`, the counts, and what the scoring took."""
    counts = Counts(
        rows_in=unit.rows_in,
        rows_scored=unit.rows_scored,
        rows_rejected=unit.rejected.num_rows,
        texts=unit.stats["texts"],
        tokens=unit.stats["tokens"],
    )
    num_ids = pc.count_distinct(unit.scores["id"]).as_py()
    if counts.rows_in != counts.rows_scored + counts.rows_rejected or num_ids != counts.rows_scored:
        raise RuntimeError(f"unit {unit.name} isn't whole, so it isn't written: {counts}, {num_ids} ids with scores")
    if unit.rejected.num_rows:
        layout.root.put(f"{layout.rejected}/{unit.name}.parquet", to_parquet(unit.rejected, {}))
    layout.root.put(f"{layout.scores}/{unit.name}.parquet", to_parquet(unit.scores, asdict(counts)))
    return pa.Table.from_pylist([{"unit": unit.name, **asdict(counts), **_effort(unit.stats)}])


def read_counts(root: Store, path: str) -> Counts:
    """Read a written unit's counts back from its metadata; only the file's end is fetched."""
    with root.open(path, scattered=True) as file:
        metadata = pq.read_metadata(file).metadata or {}
    try:
        return Counts(**json.loads(metadata[_METADATA_KEY]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{root.uri(path)} has no counts in its metadata: this program didn't write it") from error


def to_parquet(table: pa.Table, metadata: dict[str, Any]) -> bytes:
    """The table as Parquet bytes, which depend on its contents alone."""
    sink = pa.BufferOutputStream()
    named = table.replace_schema_metadata({_METADATA_KEY: json.dumps(metadata, sort_keys=True).encode()})
    pq.write_table(named.combine_chunks(), sink, compression="zstd", store_schema=True)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _effort(stats: dict[str, Any]) -> dict[str, Any]:
    return {key: stats[key] for key in ("score_s", "flops", "limit_flops_per_s", "halved")}
