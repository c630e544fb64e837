"""Why a row isn't scored: the closed list of reasons, and the table in which such rows are kept.

A rejected row keeps its place (file, row or byte) and never its text, which may be personal.
"""

from enum import StrEnum

import pyarrow as pa

REJECTED_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # null where it couldn't be read
        ("file", pa.string()),  # path below the input's root
        ("row", pa.int64()),  # as in `Part.rows`
        ("byte", pa.int64()),
        ("reason", pa.string()),  # one of `Reason`
        ("detail", pa.string()),  # what was found, never the data itself
    ]
)


class Reason(StrEnum):
    """Why a row was rejected."""

    NULL_ID = "null_id"  # null or of no characters
    ID_NOT_STRING = "id_not_string"  # neither string nor number
    DUPLICATE_ID = "duplicate_id"  # an earlier row of the unit has it and is scored
    NULL_TEXT = "null_text"
    EMPTY_TEXT = "empty_text"  # nothing but whitespace, or nothing remains when it is cleaned
    TEXT_NOT_STRING = "text_not_string"
    MISSING_COLUMN = "missing_column"  # a JSON object without the key of the id or the text
    INVALID_UTF8 = "invalid_utf8"
    BAD_JSON = "bad_json"
    NOT_AN_OBJECT = "not_an_object"
    BAD_CSV = "bad_csv"
    TOO_LONG = "too_long"  # a line over the limit
    BAD_FILE = "bad_file"  # the whole file, by the option to go on without it
