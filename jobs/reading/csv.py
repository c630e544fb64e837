"""CSV and TSV to rows: a header, RFC 4180 quotes with newlines inside them, and a stray quote that costs one line only.

A record is one physical line; while the number of its quotes is odd, the next line belongs to it too, up to 1 MiB. If
what results can't be parsed strictly, or the quotes never close, only the first physical line is rejected, and
parsing goes on at the next: a stray quote swallows nothing. What no parser can tell apart stays: a stray quote that
opens a field and a later one that closes it look like one long field. The price is that a quoted text of many lines
must be under 1 MiB. Nothing is guessed: the delimiter is a comma, or a tab if the name ends in .tsv.
"""

import csv
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from jobs.reading.badfiles import BadFile, BadFiles
from jobs.reading.chunks import Chunk
from jobs.reading.columns import Columns, require_columns
from jobs.reading.lines import LineRows, Rejection, partition_values
from jobs.reading.listing import SourceFile
from jobs.reading.rejects import Reason
from jobs.reading.spans import Span
from jobs.reading.streams import MAX_LINE_BYTES, iter_lines, open_plain

_BOM = b"\xef\xbb\xbf"
_MAX_RECORD_BYTES = 2**20
_SAMPLE_BYTES = 2**16


def read_header(file: SourceFile) -> list[str]:
    """Give the column names of `file`, none if it is empty; raises BadFiles if its first record can't be read."""
    with open_plain(file, scattered=True) as stream:
        return _header(_Records(iter_lines(stream, block_bytes=_SAMPLE_BYTES), _delimiter(file)), file)


def read_csv(span: Span, columns: Columns) -> Iterator[Chunk]:
    """Read a whole file, at least one chunk, perhaps empty.

    `row` is the number of the physical line that begins the record; the header is line 0. An empty field is an empty
    text or id (and rejected as such), and null in a kept column. Blank lines are no rows.
    """
    rows, partitions = LineRows(columns), partition_values(span.file.partitions)
    with open_plain(span.file) as stream:
        records = _Records(iter_lines(stream), _delimiter(span.file))
        header = _header(records, span.file)
        pick = _picker(header, columns, partitions, span.file) if header else None
        while pick and (record := records.next_number()) is not None:
            try:
                fields = records.parse(len(header))
                rows.add(pick(fields), record, None, sum(map(len, fields)))
            except Rejection as fault:
                rows.reject(fault, record, None)
            if rows.is_full:
                yield rows.take()
    yield rows.take()


def _delimiter(file: SourceFile) -> str:
    name = PurePosixPath(file.path)
    return "\t" if PurePosixPath(name.stem if file.compression else name).suffix.lower() == ".tsv" else ","


def _header(records: "_Records", file: SourceFile) -> list[str]:
    if records.next_number() is None:
        return []
    try:
        return records.parse(None)
    except Rejection as fault:
        raise BadFiles([BadFile(file.path, f"the header can't be read: {fault.reason}: {fault.detail}")]) from fault


def _picker(
    header: list[str], columns: Columns, partitions: dict[str, str | None], file: SourceFile
) -> Callable[[list[str]], tuple[str | None, ...]]:
    """Make the function from a record's fields to (id, text, kept …)."""
    kept = columns.kept_sources
    require_columns((columns.id, columns.text, *(name for name in kept if name not in partitions)), header, file.uri)
    first, second = header.index(columns.id), header.index(columns.text)
    places = [(None, partitions[name]) if name in partitions else (header.index(name), None) for name in kept]

    def pick(fields: list[str]) -> tuple[str | None, ...]:
        others = (value if place is None else fields[place] or None for place, value in places)
        return fields[first], fields[second], *others

    return pick


class _Records:
    """The records of a stream of physical lines, with the lines after the current one held for going back to."""

    def __init__(self, lines: Iterator[tuple[int, bytes | None]], delimiter: str) -> None:
        self._lines = lines
        self._delimiter = delimiter
        self._ahead: deque[bytes | None] = deque()
        self._number = 0
        csv.field_size_limit(MAX_LINE_BYTES)

    def next_number(self) -> int | None:
        """Go to the next line that isn't blank and give its number; None at the end."""
        while self._reach(0):
            if self._ahead[0] is None or self._ahead[0].rstrip(b"\r"):
                return self._number
            self._drop(1)
        return None

    def parse(self, num_fields: int | None) -> list[str]:
        """Parse and leave the record that begins here; raises Rejection, having left its first line alone."""
        raw = self._ahead[0]
        if raw is None:
            self._drop(1)
            raise Rejection(Reason.TOO_LONG, f"a line of more than {MAX_LINE_BYTES} bytes")
        taken, quotes = [raw], raw.count(b'"')
        size = len(raw)
        while quotes % 2 and size < _MAX_RECORD_BYTES and self._reach(len(taken)):
            more = self._ahead[len(taken)]
            if more is None:
                break
            taken.append(more)
            quotes += more.count(b'"')
            size += len(more)
        record = b"\n".join(taken).removesuffix(b"\r")
        fields = self._fields(record, quotes)
        self._drop(len(taken) if fields else 1)
        if not fields:
            raise Rejection(Reason.BAD_CSV, "a quote that isn't closed or stands in the wrong place")
        if num_fields not in (None, len(fields)):
            raise Rejection(Reason.BAD_CSV, f"{len(fields)} fields, expected {num_fields}")
        try:
            record.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Rejection(Reason.INVALID_UTF8, f"byte {error.start} of the record") from error
        return fields

    def _fields(self, record: bytes, quotes: int) -> list[str]:
        """Split a record strictly; nothing if it can't be."""
        if quotes % 2:
            return []
        try:
            parsed = list(csv.reader([record.decode("utf-8", "replace")], delimiter=self._delimiter, strict=True))
        except csv.Error:
            return []
        return parsed[0] if len(parsed) == 1 else []

    def _reach(self, place: int) -> bool:
        """Fetch lines until `place` lines ahead is there; False at the end."""
        while len(self._ahead) <= place:
            entry = next(self._lines, None)
            if entry is None:
                return False
            offset, line = entry
            self._ahead.append(line if offset or line is None else line.removeprefix(_BOM))
        return True

    def _drop(self, count: int) -> None:
        for _ in range(count):
            self._ahead.popleft()
        self._number += count
