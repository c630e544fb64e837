"""Tensors of the Open Inference Protocol as bytes and as plain lists, for HTTP and gRPC alike.

Elements stand in row-major order, little-endian; an element of BYTES is preceded by its length in four bytes. Only what
this service takes and gives is here: it takes BYTES, and gives BYTES, BOOL, INT32 and FP32.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import RequestError

_OUTPUT_TYPES = {"BOOL": "?", "INT32": "<i4", "FP32": "<f4"}
_LENGTH = struct.Struct("<I")

Parameters = Mapping[str, bool | int | float | str]


@dataclass(frozen=True)
class InputTensor:
    """A tensor as it came: raw bytes, or a list of elements, nested or flat."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview | Sequence[Any]
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True)
class OutputTensor:
    """A tensor of the answer: an array, or the elements of BYTES, which have one dimension here."""

    name: str
    datatype: str
    data: NDArray[Any] | Sequence[bytes]

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of its dimensions."""
        return self.data.shape if isinstance(self.data, np.ndarray) else (len(self.data),)

    def to_bytes(self) -> bytes:
        """The raw form."""
        if isinstance(self.data, np.ndarray):
            return self.data.astype(_OUTPUT_TYPES[self.datatype], copy=False).tobytes()
        return pack_bytes(self.data)

    def to_list(self) -> list[Any]:
        """The flat form of JSON; BYTES are UTF-8."""
        if isinstance(self.data, np.ndarray):
            elements: list[Any] = self.data.ravel().tolist()
            return elements
        return [element.decode() for element in self.data]


def pack_bytes(elements: Iterable[bytes]) -> bytes:
    """Raw form of BYTES."""
    return b"".join(part for element in elements for part in (_LENGTH.pack(len(element)), element))


def unpack_bytes(raw: bytes | memoryview, where: str) -> list[bytes]:
    """Elements of BYTES in their raw form.

    Raises
    ------
    RequestError : invalid_request; an element or its length goes beyond the end.
    """
    view, place, elements = memoryview(raw), 0, []
    while place < len(view):
        if place + _LENGTH.size > len(view):
            raise _broken(where)
        (length,) = _LENGTH.unpack_from(view, place)
        place += _LENGTH.size
        if place + length > len(view):
            raise _broken(where)
        elements.append(bytes(view[place : place + length]))
        place += length
    return elements


def texts_of(tensor: InputTensor, where: str) -> list[str]:
    """Elements of a BYTES tensor as texts, as many as its shape says.

    Raises
    ------
    RequestError : invalid_request; another number of elements, or one that isn't UTF-8.
    """
    if isinstance(tensor.data, bytes | memoryview):
        elements: list[Any] = unpack_bytes(tensor.data, where)
    else:
        elements = list(_flat(tensor.data))
    if len(elements) != (expected := math.prod(tensor.shape)):
        raise RequestError(
            "invalid_request",
            f"the shape {list(tensor.shape)} is of {expected} elements, got {len(elements)}",
            field=f"{where}.shape",
        )
    return [_text(element, f"{where}.data[{place}]") for place, element in enumerate(elements)]


def _flat(nested: Sequence[Any]) -> Iterator[Any]:
    """The elements in order; the JSON parser has bounded the depth."""
    for element in nested:
        if isinstance(element, list):
            yield from _flat(element)
        else:
            yield element


def _text(element: Any, where: str) -> str:
    if isinstance(element, str):
        return element
    if not isinstance(element, bytes):
        raise RequestError("invalid_request", "an element of BYTES must be a string", field=where)
    try:
        return element.decode()
    except UnicodeDecodeError:
        raise RequestError("invalid_request", "an element of BYTES must be UTF-8", field=where) from None


def _broken(where: str) -> RequestError:
    return RequestError(
        "invalid_request", "BYTES: each element is its length in four bytes, little-endian, and itself", field=where
    )
