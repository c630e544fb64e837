"""JSONL to rows: one object a line; a bad line is rejected alone.

One Python loop with ``json.loads`` a line, which is far above what any model scores. A byte-order mark and CRLF are
tolerated; blank lines are no rows. Kept values that aren't strings become their JSON text. ``NaN`` and ``Infinity``,
which JSON doesn't have but many writers do, read as null.
"""

import itertools
import json
from collections.abc import Iterator
from typing import Any

from jobs.reading.badfiles import BadFile, BadFiles
from jobs.reading.chunks import Chunk
from jobs.reading.columns import Columns
from jobs.reading.lines import LineRows, Rejection, partition_values
from jobs.reading.listing import SourceFile
from jobs.reading.rejects import Reason
from jobs.reading.spans import Span
from jobs.reading.streams import MAX_LINE_BYTES, iter_lines, open_plain

_BOM = b"\xef\xbb\xbf"
_SAMPLE_LINES = 100
_SAMPLE_BYTES = 2**18


def sample_keys(file: SourceFile) -> set[str] | None:
    """Give all keys of the first lines of `file` (100 lines, or 256 KiB); None if they hold no object to judge by.

    Raises BadFiles if the file can't be decompressed so far, or is one JSON array instead of an object a line.
    """
    keys: set[str] | None = None
    is_array = False
    with open_plain(file, scattered=True) as stream:
        for offset, line in itertools.islice(iter_lines(stream, block_bytes=_SAMPLE_BYTES), _SAMPLE_LINES):
            is_array |= offset == 0 and (line or b"").removeprefix(_BOM).lstrip().startswith(b"[")
            try:
                keys = (keys or set()) | _parse(line).keys()
            except Rejection:
                continue
            if offset > _SAMPLE_BYTES:
                break
    if is_array and keys is None:
        raise BadFiles([BadFile(file.path, "begins with [, but one JSON object a line is needed (JSONL)")])
    return keys


def read_jsonl(span: Span, columns: Columns) -> Iterator[Chunk]:
    """Read the lines that start in `span`, at least one chunk of them, perhaps empty.

    `row` is the number of the physical line, or null with `byte` its offset if the span doesn't begin the file.
    """
    rows, partitions = LineRows(columns), partition_values(span.file.partitions)
    whole = span.file.compression is not None
    before = max(span.start - 1, 0)  # with the byte before it, a line that starts at `start` is known to
    with open_plain(span.file, at=before) as stream:
        lines = iter_lines(stream, before, None if whole else span.stop)
        if span.start:
            next(lines, None)
        for number, (offset, line) in enumerate(lines):
            if line is not None and not line.removeprefix(b"" if offset else _BOM).strip():
                continue
            row, byte = (None, offset) if span.start else (number, None)
            try:
                rows.add(_values(line, columns, partitions), row, byte, len(line or b""))
            except Rejection as fault:
                rows.reject(fault, row, byte)
            if rows.is_full:
                yield rows.take()
    yield rows.take()


def _values(line: bytes | None, columns: Columns, partitions: dict[str, str | None]) -> tuple[str | None, ...]:
    """Give id, text and kept values of a line."""
    item = _parse(line)
    identity = _id(item, columns.id)
    text = _text(item, columns.text, identity)
    kept = [partitions[name] if name in partitions else _json_text(item.get(name)) for name in columns.kept_sources]
    values = (identity, text, *kept)
    if line and b"\\u" in line:  # only an escape can bring a lone surrogate, which no UTF-8 can hold
        names = (columns.id, columns.text, *columns.kept_sources)
        for name, value in zip(names, values, strict=True):
            if not _encodable(value):
                safe_id = identity if _encodable(identity) else None
                raise Rejection(Reason.INVALID_UTF8, f"key {name!r}: a lone surrogate", safe_id)
    return values


def _parse(line: bytes | None) -> dict[str, Any]:
    if line is None:
        raise Rejection(Reason.TOO_LONG, f"a line of more than {MAX_LINE_BYTES} bytes")
    try:
        item = json.loads(line.removeprefix(_BOM).decode("utf-8"), parse_constant=_null)
    except UnicodeDecodeError as error:
        raise Rejection(Reason.INVALID_UTF8, f"byte {error.start} of the line") from error
    except json.JSONDecodeError as error:
        raise Rejection(Reason.BAD_JSON, f"column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise Rejection(Reason.BAD_JSON, "nested too deeply") from error
    except ValueError as error:  # Python's limit on the digits of an integer
        raise Rejection(Reason.BAD_JSON, "a number of too many digits") from error
    if not isinstance(item, dict):
        raise Rejection(Reason.NOT_AN_OBJECT, _kind(item))
    return item


def _id(item: dict[str, Any], name: str) -> str | None:
    if name not in item:
        raise Rejection(Reason.MISSING_COLUMN, f"no key {name!r}")
    value = item[name]
    if isinstance(value, bool | dict | list):
        raise Rejection(Reason.ID_NOT_STRING, _kind(value))
    return _json_text(value)


def _text(item: dict[str, Any], name: str, identity: str | None) -> str | None:
    safe_id = identity if _encodable(identity) else None
    if name not in item:
        raise Rejection(Reason.MISSING_COLUMN, f"no key {name!r}", safe_id)
    value = item[name]
    if value is not None and not isinstance(value, str):
        raise Rejection(Reason.TEXT_NOT_STRING, _kind(value), safe_id)
    return value


def _json_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _encodable(value: str | None) -> bool:
    return value is None or value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)


def _null(_: str) -> None:
    return None


def _kind(value: Any) -> str:
    """Name a JSON value's kind, never its content."""
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")
