"""How a unit travels from the stage that reads to the one that scores: as one row of a block.

Ray Data may split, merge and reorder rows. A unit that is a single row can't come apart, can't lose its name, and may
be empty; its tables are inside, as Arrow IPC bytes. Price: one copy of the bytes at each end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import pyarrow as pa


@dataclass(frozen=True)
class TokenisedUnit:
    """A unit that was read, cleaned and tokenised.

    `texts`: one row a different text: `ids` list<int32>, `truncated` bool, `lang` string; for a token head also
    `offsets` list<fixed_size_list<int32>[2]> (see `models.tokeniser.Tokens`).
    `rows`: one row a verbatim to score: `id` string, `text` int32 (row of `texts`), then the passed-through columns.
    `rejected`: one row a verbatim that can't be scored, with its reason and place.
    """

    name: str
    rows_in: int
    texts: pa.Table
    rows: pa.Table
    rejected: pa.Table

    def to_block(self) -> pa.Table:
        """One row."""
        return _block(self.name, self.rows_in, texts=self.texts, rows=self.rows, rejected=self.rejected)

    @classmethod
    def from_block(cls, block: pa.Table) -> Self:
        """Read the one row back."""
        name, rows_in, tables = _unblock(block)
        return cls(name, rows_in, **tables)


def _block(name: str, rows_in: int, **tables: pa.Table) -> pa.Table:
    columns = {key: _one(_to_ipc(table)) for key, table in tables.items()}
    return pa.table({"unit": [name], "rows_in": pa.array([rows_in], pa.int64()), **columns})


def _unblock(block: pa.Table) -> tuple[str, int, dict[str, pa.Table]]:
    assert block.num_rows == 1, f"a unit is one row, got {block.num_rows}"
    keys = [key for key in block.column_names if key not in ("unit", "rows_in")]
    return block["unit"][0].as_py(), block["rows_in"][0].as_py(), {key: _from_ipc(block[key]) for key in keys}


def _one(value: pa.Buffer) -> pa.Array:
    """An array of one binary value, without copying it."""
    offsets = pa.array([0, value.size], pa.int64()).buffers()[1]
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, value])


def _to_ipc(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _from_ipc(column: pa.ChunkedArray) -> pa.Table:
    return pa.ipc.open_stream(column[0].as_buffer()).read_all()
