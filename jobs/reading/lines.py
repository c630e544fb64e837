"""Rows of a line format, gathered into chunks: the part that JSONL and CSV have in common.

A chunk is closed by bytes of input as well as rows, so that lines of a megabyte don't fill the memory.
"""

import pyarrow as pa

from jobs.reading.chunks import Chunk, judge, rows_schema
from jobs.reading.columns import Columns
from jobs.reading.rejects import Reason

_CHUNK_ROWS = 1000
_CHUNK_BYTES = 4 * 2**20
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


class Rejection(Exception):  # noqa: N818 - never leaves the readers
    """A line that is no row: the reason, what was found, and its id where that could be read."""

    def __init__(self, reason: Reason, detail: str | None = None, id: str | None = None) -> None:
        self.reason, self.detail, self.id = reason, detail, id
        super().__init__(reason, detail, id)


def partition_values(partitions: tuple[tuple[str, str], ...]) -> dict[str, str | None]:
    """Give the values of hive partitions by key, with Hive's name for null read as null."""
    return {key: None if value == _HIVE_NULL else value for key, value in partitions}


class LineRows:
    """The rows of the chunk that is being read. Values are (id, text, kept …), all strings or null."""

    def __init__(self, columns: Columns) -> None:
        self._schema = rows_schema(pa.schema([(output, pa.string()) for output, _ in columns.keep]))
        self._clear()

    def _clear(self) -> None:
        self._values: list[tuple[str | None, ...]] = []
        self._places: list[tuple[int | None, int | None]] = []
        self._faults: list[tuple[str | None, str | None]] = []
        self._num_bytes = 0

    def add(self, values: tuple[str | None, ...], row: int | None, byte: int | None, num_bytes: int) -> None:
        """Add a row that was parsed."""
        self._values.append(values)
        self._places.append((row, byte))
        self._faults.append((None, None))
        self._num_bytes += num_bytes

    def reject(self, fault: Rejection, row: int | None, byte: int | None) -> None:
        """Add a row that couldn't be."""
        self._values.append((fault.id,) + (None,) * (len(self._schema) - 3))
        self._places.append((row, byte))
        self._faults.append((fault.reason.value, fault.detail))

    @property
    def is_full(self) -> bool:
        """Whether it is time to `take`."""
        return len(self._values) >= _CHUNK_ROWS or self._num_bytes >= _CHUNK_BYTES

    def take(self) -> Chunk:
        """Give the rows so far (perhaps none) as a chunk, and begin the next."""
        values = list(zip(*self._values, strict=True)) or [()] * (len(self._schema) - 2)
        places = list(zip(*self._places, strict=True)) or [(), ()]
        reason, detail = list(zip(*self._faults, strict=True)) or [(), ()]
        rows = pa.table([values[0], values[1], *places, *values[2:]], schema=self._schema)
        self._clear()
        return judge(rows, pa.array(reason, pa.string()), pa.array(detail, pa.string()))
