"""The plan of a run's reading: every file looked into once, briefly, and cut into spans.

Whatever can be known before work starts stops it here: files that can't be read (all of them in one message), columns
that don't exist, types that don't fit or differ between files. Parquet costs its footer, line formats their first
lines. Given up: a broken page in the middle of a Parquet file shows only when it is read.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from jobs.reading.badfiles import BadFile, BadFiles
from jobs.reading.columns import ColumnError, Columns, require_columns
from jobs.reading.csv import read_header
from jobs.reading.jsonl import sample_keys
from jobs.reading.lines import partition_values
from jobs.reading.listing import SourceFile
from jobs.reading.parquet import column_types, group_spans, read_footer
from jobs.reading.spans import SPAN_BYTES, Span, line_spans

_THREADS = 16  # footers are waited for, not computed


@dataclass(frozen=True, slots=True)
class SpanPlan:
    """The spans of all readable files in the order of the files, and the files that are rejected whole."""

    spans: tuple[Span, ...]
    bad_files: tuple[BadFile, ...]


@dataclass(frozen=True, slots=True)
class _Glance:
    """What a look into one file told. keys: JSON keys of its first lines; types: plain types of its columns."""

    file: SourceFile
    spans: tuple[Span, ...]
    types: dict[str, pa.DataType]
    keys: set[str] | None = None


def plan_spans(
    files: Sequence[SourceFile],
    columns: Columns,
    *,
    bad_files: Literal["stop", "reject"] = "stop",
    span_bytes: int = SPAN_BYTES,
) -> SpanPlan:
    """Look into every file and cut it into spans of about `span_bytes`.

    Raises BadFiles with all unreadable files (with ``reject`` they are returned, unless nothing else is left),
    ColumnError for a mapping that doesn't fit, ChangedFile, and the store's errors. Compressed lines are looked at only
    at their beginning: see `verify_file`.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        looks = list(pool.map(lambda file: _look(file, columns, span_bytes), files))
    bad = tuple(look for look in looks if isinstance(look, BadFile))
    if bad and (bad_files == "stop" or len(bad) == len(files)):
        raise BadFiles(bad)
    glances = [look for look in looks if isinstance(look, _Glance)]
    _require_one_schema(glances, (columns.id, columns.text))
    _require_kept_keys(glances, columns)
    return SpanPlan(tuple(span for glance in glances for span in glance.spans), bad)


def _look(file: SourceFile, columns: Columns, span_bytes: int) -> _Glance | BadFile:
    try:
        if file.format == "parquet":
            footer = read_footer(file)
            return _Glance(file, group_spans(file, footer, span_bytes), column_types(file, footer.schema, columns))
        return _Glance(file, line_spans(file, span_bytes), {}, _look_at_lines(file, columns))
    except BadFiles as error:
        return error.files[0]


def _look_at_lines(file: SourceFile, columns: Columns) -> set[str] | None:
    """Check the columns of a line file; give its keys if it is JSONL and has any rows."""
    if file.format == "csv":
        header = read_header(file)
        if header:
            kept = set(columns.kept_sources) - set(partition_values(file.partitions))
            require_columns((columns.id, columns.text, *sorted(kept)), header, file.uri)
        return None
    keys = sample_keys(file)
    if keys is not None:
        require_columns((columns.id, columns.text), sorted(keys), f"{file.uri} (first lines)")
    return keys


def _require_one_schema(glances: Sequence[_Glance], read_as_strings: Sequence[str]) -> None:
    """Check that a column has one type in all files; id and text, read as strings, may also be untyped (all null)."""
    for glance in glances:
        for name, type in glance.types.items():
            other = glances[0].types[name]
            if type != other and not (name in read_as_strings and pa.null() in (type, other)):
                raise ColumnError(
                    f"column {name!r} is {other} in {glances[0].file.uri} but {type} in {glance.file.uri}; "
                    "give both files one type, or leave one of them out"
                )


def _require_kept_keys(glances: Sequence[_Glance], columns: Columns) -> None:
    """Check that each kept key is in some JSONL file: one that is often absent is fine, a misspelt one isn't."""
    sampled = [glance for glance in glances if glance.keys is not None]
    if sampled:
        known = {key for glance in sampled for key in (glance.keys or ())}
        known |= {key for glance in sampled for key, _ in glance.file.partitions}
        require_columns(columns.kept_sources, sorted(known), "the first lines of all files")
