"""Parquet to rows: footers for the plan, then only the mapped columns, streamed, whatever a row group's size.

A column chunk is read in blocks of 2 MiB instead of whole (pre-buffering would hold a row group), which is what keeps
memory flat on files of one huge row group; the price is more requests to an object store. pyarrow doesn't check that
strings are UTF-8, so that is done here: the column at once, and row by row only if it fails. Strings inside lists
and structs are passed through unchecked.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.reading.arrow_types import is_number, plain_type, to_plain
from jobs.reading.badfiles import BadFile, BadFiles
from jobs.reading.chunks import Chunk, judge, rows_schema
from jobs.reading.columns import ColumnError, Columns, require_columns
from jobs.reading.lines import partition_values
from jobs.reading.listing import SourceFile
from jobs.reading.rejects import Reason
from jobs.reading.spans import Span
from jobs.reading.streams import open_source

_BLOCK_BYTES = 2 * 2**20
_BATCH_BYTES = 8 * 2**20
_BATCH_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Footer:
    """What a file's end says: its schema, and rows and uncompressed bytes of each row group."""

    schema: pa.Schema
    group_rows: tuple[int, ...]
    group_bytes: tuple[int, ...]


def read_footer(file: SourceFile) -> Footer:
    """Read the footer; raises BadFiles if the file is truncated, empty or no Parquet."""
    if file.size_bytes == 0:
        raise BadFiles([BadFile(file.path, "0 bytes, which is no Parquet file")])
    with open_source(file, scattered=True) as handle, pq.ParquetFile(handle) as parquet:
        groups = [parquet.metadata.row_group(index) for index in range(parquet.num_row_groups)]
        return Footer(
            parquet.schema_arrow,
            tuple(group.num_rows for group in groups),
            tuple(group.total_byte_size for group in groups),
        )


def column_types(file: SourceFile, schema: pa.Schema, columns: Columns) -> dict[str, pa.DataType]:
    """Give the plain type of every mapped column of `file`, by source name; raises ColumnError for one unfit."""
    partitions = partition_values(file.partitions)
    kept = [name for name in columns.kept_sources if name not in partitions]
    require_columns((columns.id, columns.text, *kept), schema.names, file.uri)
    types = {name: plain_type(schema.field(name).type) for name in (columns.id, columns.text, *kept)}
    if types[columns.text] not in (pa.string(), pa.null()):
        raise ColumnError(f"{file.uri}: the text column {columns.text!r} is {types[columns.text]}; it must be string")
    if types[columns.id] not in (pa.string(), pa.null()) and not is_number(types[columns.id]):
        wanted = "it must be string or a number"
        raise ColumnError(f"{file.uri}: the id column {columns.id!r} is {types[columns.id]}; {wanted}")
    return types | {name: pa.string() for name in columns.kept_sources if name in partitions}


def group_spans(file: SourceFile, footer: Footer, span_bytes: int) -> tuple[Span, ...]:
    """Put neighbouring row groups together until they reach `span_bytes`; a file of none is one span of no rows."""
    spans: list[Span] = []
    start, row, num_rows, num_bytes = 0, 0, 0, 0
    for index, (rows, size) in enumerate(zip(footer.group_rows, footer.group_bytes, strict=True), 1):
        num_rows += rows
        num_bytes += size
        if num_bytes >= span_bytes or index == len(footer.group_rows):
            spans.append(Span(file, start, index, num_rows, row))
            start, row, num_rows, num_bytes = index, row + num_rows, 0, 0
    return tuple(spans) or (Span(file, 0, 0, 0, 0),)


def read_parquet(span: Span, columns: Columns) -> Iterator[Chunk]:
    """Read the row groups of `span`, at least one chunk, perhaps empty. `row` is the number of the row in the file."""
    with (
        open_source(span.file, scattered=True) as handle,
        pq.ParquetFile(handle, pre_buffer=False, buffer_size=_BLOCK_BYTES) as parquet,
    ):
        types = column_types(span.file, parquet.schema_arrow, columns)
        partitions = partition_values(span.file.partitions)
        names = [name for name in types if name in (columns.id, columns.text) or name not in partitions]
        groups = list(range(span.start, span.stop))
        first = span.first_row or 0
        empty = pa.RecordBatch.from_arrays(
            [pa.nulls(0, parquet.schema_arrow.field(name).type) for name in names], names=names
        )
        yield _chunk(empty, columns, partitions, first)
        for batch in parquet.iter_batches(_batch_rows(parquet.metadata, groups, names), groups, names):
            yield _chunk(batch, columns, partitions, first)
            first += batch.num_rows


def _batch_rows(metadata: pq.FileMetaData, groups: list[int], names: list[str]) -> int:
    """Give the rows a batch may have to stay near 8 MiB, by the mean size of a row in its widest row group."""
    widest = 1.0
    for group in map(metadata.row_group, groups):
        sizes = [group.column(place) for place in range(group.num_columns)]
        wanted = [size for size in sizes if size.path_in_schema.startswith(tuple(names))]
        widest = max(widest, sum(size.total_uncompressed_size for size in wanted) / max(group.num_rows, 1))
    return max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / widest)))


def _chunk(batch: pa.RecordBatch, columns: Columns, partitions: dict[str, str | None], first_row: int) -> Chunk:
    arrays = {name: to_plain(batch.column(name)) for name in batch.schema.names}
    reason, detail = pa.nulls(batch.num_rows, pa.string()), pa.nulls(batch.num_rows, pa.string())
    for name, array in arrays.items():
        invalid = _invalid_utf8(array)
        if invalid is not None:
            arrays[name] = pc.if_else(invalid, pa.scalar(None, array.type), array)
            reason = pc.if_else(invalid, pa.scalar(Reason.INVALID_UTF8.value), reason)
            detail = pc.if_else(invalid, pa.scalar(f"column {name!r}"), detail)
    kept = [
        pa.repeat(pa.scalar(partitions[name], pa.string()), batch.num_rows) if name in partitions else arrays[name]
        for name in columns.kept_sources
    ]
    fields = [(output, array.type) for (output, _), array in zip(columns.keep, kept, strict=True)]
    rows = pa.array(np.arange(first_row, first_row + batch.num_rows, dtype=np.int64))
    ids, texts = _id_strings(arrays[columns.id]), pc.cast(arrays[columns.text], pa.string())
    ours = [ids, texts, rows, pa.nulls(len(rows), pa.int64())]
    return judge(pa.table([*ours, *kept], schema=rows_schema(pa.schema(fields))), reason, detail)


def _id_strings(ids: pa.Array) -> pa.Array:
    """Ids as strings; what is not a number is no id."""
    if pa.types.is_floating(ids.type):
        ids = pc.if_else(pc.is_nan(ids), pa.scalar(None, ids.type), ids)
    return pc.cast(ids, pa.string())


def _invalid_utf8(array: pa.Array) -> pa.Array | None:
    """Mark the strings that aren't UTF-8; None if all are."""
    if array.type != pa.string():
        return None
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return pa.array([not _decodes(value) for value in pc.cast(array, pa.binary()).to_pylist()])
    return None


def _decodes(value: bytes | None) -> bool:
    try:
        (value or b"").decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
