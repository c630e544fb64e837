"""Reading a file whole in the tests of the readers, every part checked on the way."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from jobs.reading.columns import Columns
from jobs.reading.listing import list_input
from jobs.reading.parts import Part, UnitLimits
from jobs.reading.plan import plan_spans
from jobs.reading.read import read_span
from jobs.reading.rejects import REJECTED_SCHEMA
from jobs.reading.spans import SPAN_BYTES

COLUMNS = Columns("id", "text")


def parts_of(
    path: Path | str, columns: Columns = COLUMNS, limits: UnitLimits | None = None, span_bytes: int = SPAN_BYTES
) -> Iterator[Part]:
    for span in plan_spans(list_input(str(path)).files, columns, span_bytes=span_bytes).spans:
        parts = list(read_span(span, columns, limits or UnitLimits()))
        assert [part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]
        assert [part.index for part in parts] == list(range(len(parts)))
        for part in parts:
            assert part.rows_in == part.rows.num_rows + part.rejected.num_rows
            assert part.rejected.schema == REJECTED_SCHEMA
            part.rows.validate(full=True)
            part.rejected.validate(full=True)
        yield from parts


def read(path: Path | str, columns: Columns = COLUMNS, **options: int) -> tuple[pa.Table, pa.Table]:
    parts = list(parts_of(path, columns, span_bytes=options.get("span_bytes", SPAN_BYTES)))
    return pa.concat_tables([part.rows for part in parts]), pa.concat_tables([part.rejected for part in parts])


def pairs(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))


def faults(rejected: pa.Table) -> list[tuple[str | None, int | None, str, str | None]]:
    names = ("id", "row", "reason", "detail")
    return list(zip(*(rejected[name].to_pylist() for name in names), strict=True))


def not_utf8(*values: bytes) -> pa.Array:
    return pa.array(values, pa.binary()).view(pa.string())
