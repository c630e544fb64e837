"""The stream of a span, cut into parts: the pieces that are scored and written as one object each.

Where a part ends depends on the rows alone, never on how the reader happened to chunk them, so that a span that is
read again gives the same parts. The price is holding one part (16 MiB of text and a row) until it is known whether
more comes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.reading.chunks import Chunk
from jobs.reading.rejects import REJECTED_SCHEMA


@dataclass(frozen=True, slots=True)
class UnitLimits:
    """A part closes with the row that brings it to `rows` rows (rejected ones count) or `text_bytes` of UTF-8 text."""

    rows: int = 10_000
    text_bytes: int = 16 * 2**20

    def __post_init__(self) -> None:
        """Check that a part can hold a row."""
        for name, value in (("rows", self.rows), ("text_bytes", self.text_bytes)):
            if value < 1:
                raise ValueError(f"{name} is {value}: a unit must hold at least 1")


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a span.

    index: from 0 within the span. is_last: exactly one part of a span is. rows: what is to be scored, with id, text,
    row (line formats: physical line, Parquet: row; both from 0, null where unknown), byte (offset of the line where row
    is unknown) and the kept columns. rejected: `REJECTED_SCHEMA`. rows_in = rows + rejected.
    """

    index: int
    is_last: bool
    rows: pa.Table
    rejected: pa.Table
    rows_in: int


def cut_parts(chunks: Iterable[Chunk], path: str, limits: UnitLimits) -> Iterator[Part]:
    """Cut chunks (at least one, perhaps empty) of the file `path` into parts; rows stay 1:1 and in order."""
    held: list[Chunk] = []
    num_rows, num_bytes, index = 0, 0, 0
    for chunk in chunks:
        ends = np.cumsum(pc.fill_null(pc.binary_length(chunk.rows["text"]), 0).to_numpy(), dtype=np.int64)
        start, total = 0, len(ends)
        while start < total:
            if num_rows >= limits.rows or num_bytes >= limits.text_bytes:
                yield _part(held, path, index, is_last=False)
                held, num_rows, num_bytes, index = [], 0, 0, index + 1
            before = int(ends[start - 1]) if start else 0
            full = int(np.searchsorted(ends, before + limits.text_bytes - num_bytes)) + 1  # with the row that fills it
            stop = min(full, start + limits.rows - num_rows, total)
            held.append(chunk.slice(start, stop - start))
            num_rows += stop - start
            num_bytes += int(ends[stop - 1]) - before
            start = stop
        held = held or [chunk]
    yield _part(held, path, index, is_last=True)


def _part(held: list[Chunk], path: str, index: int, *, is_last: bool) -> Part:
    rows = pa.concat_tables([chunk.rows for chunk in held])
    verdict = pa.concat_tables([chunk.verdict for chunk in held])
    bad = pc.is_valid(verdict["reason"])
    rejected = pa.table(
        {
            "id": rows["id"].filter(bad),
            "file": pa.repeat(path, pc.sum(bad, min_count=0).as_py()),
            "row": rows["row"].filter(bad),
            "byte": rows["byte"].filter(bad),
            "reason": verdict["reason"].filter(bad),
            "detail": verdict["detail"].filter(bad),
        },
        schema=REJECTED_SCHEMA,
    )
    good = rows.filter(pc.invert(bad)).combine_chunks()
    assert good.num_rows + rejected.num_rows == rows.num_rows, "rows in = rows + rejected"
    return Part(index, is_last, good, rejected.combine_chunks(), rows.num_rows)
