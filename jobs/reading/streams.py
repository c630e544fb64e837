"""A source file as bytes: opened, checked to be the planned one, decompressed, cut into lines.

Memory is bounded by the block and by the longest line that is let through, whatever the file holds. Arrow's own
decompressor is used for both formats because it tells a stream that ends early from one that is whole (also a zstd
frame without its end, which zstandard's stream reader passes over in silence; tried with every cut of a file).
"""

import contextlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol

import pyarrow as pa

from cluster.store_errors import StoreError
from cluster.stores import open_store
from jobs.reading.badfiles import BadFile, BadFiles, ChangedFile
from jobs.reading.listing import SourceFile

BLOCK_BYTES = 2**20
MAX_LINE_BYTES = 64 * 2**20


class ByteStream(Protocol):
    """What is read from: `read(n)` gives at most n bytes, and none only at the end."""

    def read(self, nbytes: int, /) -> bytes:
        """Read on."""
        ...


@contextlib.contextmanager
def open_source(file: SourceFile, *, scattered: bool = False) -> Iterator[BinaryIO]:
    """Open the raw bytes of `file`; raises ChangedFile if they aren't the listed ones, BadFiles if they are broken.

    `scattered` as in `Store.open`.
    """
    store = open_store(file.uri)
    try:
        with store.open(scattered=scattered) as handle:
            etag = store.stat().etag
            if etag != file.etag:
                raise ChangedFile(f"{file.uri}: changed since it was listed ({file.etag} became {etag}); plan again")
            yield handle
    except (StoreError, MemoryError):
        raise
    except (pa.ArrowException, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno:  # the system's word; Arrow's own read errors have no number
            raise
        raise BadFiles([BadFile(file.path, str(error).partition("\n")[0])]) from error


@contextlib.contextmanager
def open_plain(file: SourceFile, *, at: int = 0, scattered: bool = False) -> Iterator[ByteStream]:
    """Open `file` decompressed; `at` is an offset into an uncompressed one. Raises as `open_source`, also later."""
    with open_source(file, scattered=scattered) as handle:
        if file.compression is None or file.size_bytes == 0:  # an empty file is an empty stream in any compression
            handle.seek(at)
            yield handle
        else:
            yield pa.CompressedInputStream(pa.PythonFile(handle, mode="r"), file.compression)


def iter_lines(
    stream: ByteStream,
    begin: int = 0,
    stop: int | None = None,
    *,
    max_line_bytes: int = MAX_LINE_BYTES,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[tuple[int, bytes | None]]:
    r"""Cut `stream`, which stands at offset `begin`, into lines; ends before the first line that starts at `stop`.

    Yields (offset, line without its ``\n``), and None in place of a line over `max_line_bytes`, which is never held.
    """
    pieces: list[bytes] = []
    size = 0
    while block := stream.read(block_bytes):
        *ended, rest = block.split(b"\n")
        for piece in ended:
            size += len(piece)
            pieces.append(piece)
            yield begin, b"".join(pieces) if size <= max_line_bytes else None
            begin += size + 1
            pieces, size = [], 0
            if stop is not None and begin >= stop:
                return
        size += len(rest)
        pieces.append(rest)
        if size > max_line_bytes:
            pieces.clear()
    if size:
        yield begin, b"".join(pieces) if size <= max_line_bytes else None


def drain(file: SourceFile) -> None:
    """Read `file` to its end and keep nothing; raises BadFiles if it is truncated or corrupt."""
    with open_plain(file) as stream:
        while stream.read(BLOCK_BYTES):
            pass
