"""A span to parts: the one function that a read task calls."""

from collections.abc import Iterator

from jobs.reading.columns import Columns
from jobs.reading.csv import read_csv
from jobs.reading.jsonl import read_jsonl
from jobs.reading.parquet import read_parquet
from jobs.reading.parts import Part, UnitLimits, cut_parts
from jobs.reading.spans import Span

_READERS = {"parquet": read_parquet, "jsonl": read_jsonl, "csv": read_csv}


def read_span(span: Span, columns: Columns, limits: UnitLimits) -> Iterator[Part]:
    """Read `span` in order, part by part; a span of no rows is one empty part.

    The same span, columns and limits give the same parts, always. Raises ChangedFile if the file isn't the planned
    one, BadFiles if it turns out broken on the way, ColumnError if the mapping doesn't fit, and the store's errors.
    """
    yield from cut_parts(_READERS[span.file.format](span, columns), span.file.path, limits)
