"""What one read task opens: a range of one file, small enough to ship.

Parquet is cut between row groups, plain JSONL into byte ranges, so that one large file is read by many tasks.
Compressed lines can't be entered in the middle, and a CSV can't either, since a newline there may stand inside quotes:
both are one span a file.
"""

from dataclasses import dataclass

from jobs.reading.badfiles import BadFiles
from jobs.reading.listing import SourceFile
from jobs.reading.streams import drain

SPAN_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Span:
    """A range of `file`, from `start` to before `stop`.

    Parquet: row groups. Plain JSONL: bytes; the span owns the lines that start in it. Else the whole file, in bytes.
    num_rows: where known without reading (Parquet, empty files). first_row: the number of its first row, where known.
    """

    file: SourceFile
    start: int
    stop: int
    num_rows: int | None
    first_row: int | None


def line_spans(file: SourceFile, span_bytes: int = SPAN_BYTES) -> tuple[Span, ...]:
    """Cut a file of lines; an empty one is one span of no rows."""
    size = file.size_bytes
    if size == 0 or file.format == "csv" or file.compression:
        return (Span(file, 0, size, None if size else 0, 0),)
    starts = range(0, size, span_bytes)
    return tuple(Span(file, start, min(start + span_bytes, size), None, None if start else 0) for start in starts)


def verify_file(span: Span) -> str | None:
    """Decompress a compressed file to its end, keeping nothing; give the cause if it is truncated or corrupt.

    To be called before anything of the file is written. None (whole) at once for files that aren't compressed as a
    whole. Raises ChangedFile, and the store's own errors.
    """
    if span.file.compression is None:
        return None
    try:
        drain(span.file)
    except BadFiles as error:
        return error.files[0].cause
    return None
