"""What every reader hands on: a few rows, good and bad together, and what is wrong with the bad ones.

Readers of lines say what they saw while parsing; what can be seen in the columns themselves (null, empty) is judged
here, vectorised and in one place, so that the same fault has the same reason in every format.
"""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from jobs.reading.rejects import Reason

VERDICT_SCHEMA = pa.schema([("reason", pa.string()), ("detail", pa.string())])


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows in the order of the file.

    rows: id, text, row, byte, then the kept columns. verdict: reason and detail, null for what is to be scored;
    1:1 with rows. Values of a rejected row may be null or may not; they go no further.
    """

    rows: pa.Table
    verdict: pa.Table

    def slice(self, start: int, length: int) -> "Chunk":
        """Give `length` rows from `start` on, without copying."""
        return Chunk(self.rows.slice(start, length), self.verdict.slice(start, length))


def rows_schema(kept: pa.Schema) -> pa.Schema:
    """Give the schema of `Chunk.rows` with these kept columns."""
    ours = [("id", pa.string()), ("text", pa.string()), ("row", pa.int64()), ("byte", pa.int64())]
    return pa.schema([pa.field(*pair) for pair in ours] + list(kept))


def judge(rows: pa.Table, reason: pa.Array, detail: pa.Array) -> Chunk:
    """Add the faults of id and text to those that a reader found (`reason`, null where none); the first found stays."""
    bare = pc.utf8_trim_whitespace(rows["text"])
    faults = [
        (pc.is_null(rows["id"]), Reason.NULL_ID, "null"),
        (pc.equal(rows["id"], ""), Reason.NULL_ID, "no characters"),
        (pc.is_null(rows["text"]), Reason.NULL_TEXT, None),
        (pc.equal(bare, ""), Reason.EMPTY_TEXT, None),
    ]
    for found, kind, said in faults:
        new = pc.and_(pc.is_null(reason), pc.fill_null(found, False))
        reason = pc.if_else(new, pa.scalar(kind.value), reason)
        detail = pc.if_else(new, pa.scalar(said, pa.string()), detail)
    return Chunk(rows, pa.table([reason, detail], schema=VERDICT_SCHEMA))
