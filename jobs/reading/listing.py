"""Which files a corpus consists of: one file, a folder, a glob or hive partitions, in any store.

Everything below the input's root counts, sorted by path, so two listings of the same data are equal. What is hidden by
custom (a name that begins with ``_`` or ``.``) is left out and counted; anything else that isn't understood is an
error, since a file that nobody reads is data lost in silence. Given up: corpora of mixed formats, and partition keys
above the input's root (a path that is stable below the root is what names a unit of work).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import unquote

from fsspec.utils import glob_translate

from cluster.store_errors import StoreNotFound
from cluster.stores import FileInfo, Store, open_store

Format = Literal["parquet", "jsonl", "csv"]
Compression = Literal["gzip", "zstd"]

_FORMATS: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of the corpus. `path` is relative to the input's root; `etag` changes whenever the content does."""

    path: str
    uri: str
    size_bytes: int
    etag: str
    format: Format
    compression: Compression | None = None
    partitions: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a corpus, sorted by path, and how many hidden ones were left out."""

    files: tuple[SourceFile, ...]
    num_ignored: int


def list_input(uri: str, format: Literal["auto"] | Format = "auto") -> Listing:
    """List the corpus at `uri`, a file, a folder or a glob (``*``, ``?``, ``[…]``, ``**``; a folder it meets is whole).

    `format` other than ``auto`` holds for every file, whatever its extension; the compression is always told by it.
    Raises StoreNotFound where nothing is, or nothing but hidden files; ValueError for an extension that isn't known
    and for mixed formats.
    """
    root, found = _find(uri)
    shown = [info for info in found if not _hidden(info.path)]
    if not shown:
        raise StoreNotFound(f"{uri}: {_nothing(uri, len(found))}")
    files = tuple(_source_file(root, info, format) for info in shown)
    _require_one_format(files)
    return Listing(files, len(found) - len(shown))


def _find(uri: str) -> tuple[Store, tuple[FileInfo, ...]]:
    """Give the input's root and what lies below it; the root of a single file is its folder."""
    store = open_store(uri)
    fixed, pattern = _split_glob(store.root)
    if _is_file(store):
        parent, _, name = store.root.rpartition("/")
        return open_store(parent or "/"), (replace(store.stat(), path=name),)
    if not pattern:
        return store, store.list()
    root, matches = open_store(fixed), re.compile(glob_translate(pattern)).match
    found = root.list()
    return root, tuple(info for info in found if any(matches(name) for name in _with_parents(info.path)))


def _is_file(store: Store) -> bool:
    """Say whether the root itself is a file (a bucket's root never is)."""
    scheme, _, rest = store.root.rpartition("://")
    return bool(not scheme or "/" in rest) and store.exists()


def _split_glob(uri: str) -> tuple[str, str]:
    """Cut after the last folder before the first wildcard; the pattern is empty where there is none."""
    if not _MAGIC.search(uri):
        return uri, ""
    cut = _MAGIC.split(uri, maxsplit=1)[0].rfind("/")
    if uri[:cut].endswith(":/"):
        raise ValueError(f"{uri!r}: a wildcard can't stand in the bucket's name; name one bucket")
    return uri[:cut] or "/", uri[cut + 1 :]


def _with_parents(path: str) -> Iterable[str]:
    return (path, *(str(parent) for parent in PurePosixPath(path).parents if str(parent) != "."))


def _hidden(path: str) -> bool:
    return any(name.startswith(("_", ".")) for name in path.split("/"))


def _nothing(uri: str, num_hidden: int) -> str:
    if num_hidden:
        return f"nothing but {num_hidden} file(s) whose names begin with _ or ., which are ignored"
    if _MAGIC.search(uri):
        return "no file matches this pattern; check it, or give the folder"
    return "no such file, or an empty folder; check the path (input is a file, a folder or a glob)"


def _source_file(root: Store, info: FileInfo, forced: Literal["auto"] | Format) -> SourceFile:
    name = PurePosixPath(info.path)
    compression = _COMPRESSIONS.get(name.suffix.lower())
    extension = (PurePosixPath(name.stem) if compression else name).suffix.lower()
    format = _FORMATS.get(extension) if forced == "auto" else forced
    if format is None:
        raise ValueError(
            f"{root.uri(info.path)}: unknown extension {extension!r}; known are {', '.join(_FORMATS)}, the line "
            f"formats also with {', '.join(_COMPRESSIONS)}. Remove the file, begin its name with _ or set the format"
        )
    if format == "parquet" and compression:
        raise ValueError(f"{root.uri(info.path)}: Parquet is compressed inside; unpack the file to plain .parquet")
    uri = root.uri(info.path)
    return SourceFile(info.path, uri, info.size_bytes, info.etag, format, compression, _partitions(name))


def _partitions(path: PurePosixPath) -> tuple[tuple[str, str], ...]:
    """Read ``key=value`` folders; a value is percent-decoded as Hive and Spark write it."""
    pairs = (folder.partition("=") for folder in path.parts[:-1])
    return tuple((key, unquote(value)) for key, equals, value in pairs if key and equals)


def _require_one_format(files: tuple[SourceFile, ...]) -> None:
    first = files[0]
    for file in files:
        if file.format != first.format:
            raise ValueError(
                f"the input mixes formats: {first.uri} is {first.format}, {file.uri} is {file.format}; "
                "give a glob that meets one of them"
            )
