"""One Arrow type for what several writers call differently, so that every file of a run gives the same columns.

Strings of any layout become string, integers int64 (unsigned 64-bit ones stay), floats float64, timestamps microseconds
(nanoseconds are cut), dictionaries their values. Other types stay as they are. Given up: digits below a microsecond.
"""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds


def plain_type(type: pa.DataType) -> pa.DataType:
    """Give the type that a column of `type` has after `to_plain`."""
    if kinds.is_dictionary(type):
        return plain_type(type.value_type)
    if kinds.is_large_string(type) or kinds.is_string_view(type):
        return pa.string()
    if kinds.is_integer(type) and not kinds.is_uint64(type):
        return pa.int64()
    if kinds.is_floating(type):
        return pa.float64()
    if kinds.is_timestamp(type):
        return pa.timestamp("us", tz=type.tz)
    return type


def to_plain(array: pa.Array) -> pa.Array:
    """Cast `array` to its plain type; raises ArrowInvalid if a time is out of the range of microseconds."""
    if kinds.is_dictionary(array.type):
        return to_plain(array.dictionary_decode())
    wanted = plain_type(array.type)
    if wanted == array.type:
        return array
    return pc.cast(array, wanted, safe=not (kinds.is_timestamp(wanted) and array.type.unit == "ns"))


def is_number(type: pa.DataType) -> bool:
    """Say whether an id of this type can be written as a string of digits."""
    return bool(kinds.is_integer(type) or kinds.is_floating(type) or kinds.is_decimal(type))
