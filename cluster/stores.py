"""Where data lies: one URI becomes one small spec that reads, lists and writes whole files.

Local paths, ``file://``, ``s3://`` (any S3-compatible endpoint; endpoint, profile, keys, role and region come from the
usual AWS environment) and every other protocol that fsspec knows. A `Store` is only its URI, so it can be pickled to
another process, which connects by itself. Nothing is cached between calls: what is listed is what is there.
Given up: appending, renaming and folders. A write is one whole object or nothing, which is all that units need.
Writing is atomic on local disks and on S3; elsewhere as far as the protocol's own single put is.
Errors are those of `cluster.store_errors`.
"""

import contextlib
import errno
import functools
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import fsspec

from cluster.store_errors import StoreNotFound, masked, translated

_TEMPORARY = ".put-"  # a write that a kill cut off leaves such a file; listings never show it, `sweep` removes it
_S3_BLOCK_BYTES = 8 * 2**20
_S3_CONFIG = {"connect_timeout": 3, "read_timeout": 60, "retries": {"mode": "standard", "total_max_attempts": 3}}
_S3_ATTEMPTS = 3  # s3fs's own, around botocore's three: a dead endpoint is given up after half a minute


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file of a listing: its path below the store's root, its size, and a tag that changes with its content."""

    path: str
    size_bytes: int
    etag: str


@dataclass(frozen=True)
class Store(ABC):
    """Files below one root. Paths are relative to it, with ``/``; the empty path is the root itself."""

    root: str

    def uri(self, path: str = "") -> str:
        """Give the full URI of `path` (a plain path on local disks)."""
        return f"{self.root.rstrip('/')}/{path}" if path else self.root

    def child(self, path: str) -> Self:
        """Give the store whose root is `path` of this one."""
        return type(self)(self.uri(path))

    def list(self, prefix: str = "") -> tuple[FileInfo, ...]:
        """List all files below the folder `prefix` (or the file itself), sorted by path.

        A folder that doesn't exist is empty; a bucket that doesn't exist raises `StoreNotFound`.
        """
        with translated(self.uri(prefix)):
            return tuple(sorted(self._list(prefix), key=lambda info: info.path))

    def stat(self, path: str = "") -> FileInfo:
        """Describe one file; raises `StoreNotFound` for a folder or where nothing is."""
        with translated(self.uri(path)):
            return self._stat(path)

    def exists(self, path: str = "") -> bool:
        """Say whether `path` is a file."""
        try:
            self.stat(path)
        except StoreNotFound:
            return False
        return True

    def read_bytes(self, path: str = "") -> bytes:
        """Read one whole file into memory."""
        with self.open(path) as handle:
            return handle.read()

    @contextlib.contextmanager
    def open(self, path: str = "", *, scattered: bool = False) -> Iterator[BinaryIO]:
        """Open one file to read; errors of the store while it is read are translated too.

        `scattered`: few, far reads are to come (Parquet), so fetch exactly what is asked for instead of reading ahead.
        """
        with translated(self.uri(path)), self._open(path, scattered) as handle:
            yield handle

    def put(self, path: str, data: bytes) -> None:
        """Write one whole file, replacing any; a reader sees the old bytes or the new, never a part."""
        try:
            with translated(self.uri(path)):
                self._put(path, data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            message = f"disk full while writing {len(data)} bytes; free some space or choose another place"
            raise OSError(error.errno, message, self.uri(path)) from error

    def delete(self, path: str) -> None:
        """Delete one file; that it is gone already is no error."""
        with translated(self.uri(path)), contextlib.suppress(FileNotFoundError):
            self._delete(path)

    def sweep(self, prefix: str) -> None:  # noqa: B027 - most stores have nothing to sweep
        """Remove what cut-off writes have left below the folder `prefix`; for who alone writes there."""

    @abstractmethod
    def _list(self, prefix: str) -> Iterator[FileInfo]: ...

    @abstractmethod
    def _stat(self, path: str) -> FileInfo: ...

    @abstractmethod
    def _open(self, path: str, scattered: bool) -> AbstractContextManager[BinaryIO]: ...

    @abstractmethod
    def _put(self, path: str, data: bytes) -> None: ...

    @abstractmethod
    def _delete(self, path: str) -> None: ...


class LocalStore(Store):
    """A folder or file of this machine (or of a disk that all machines share)."""

    def sweep(self, prefix: str) -> None:
        """Remove temporary files; see `Store.sweep`."""
        for left in Path(self.uri(prefix)).rglob(f"{_TEMPORARY}*"):
            left.unlink(missing_ok=True)

    def _list(self, prefix: str) -> Iterator[FileInfo]:
        base = Path(self.uri(prefix))
        if base.is_file():
            yield self._stat(prefix)
        if not base.is_dir():
            return
        for folder, inner, names in os.walk(base, onerror=_raise, followlinks=True):
            for link in (Path(folder) / name for name in inner):
                if link.is_symlink() and Path(folder).resolve().is_relative_to(link.resolve()):
                    raise OSError(errno.ELOOP, "a link to a folder above it", str(link))
            for name in names:
                if not name.startswith(_TEMPORARY):
                    yield self._stat((Path(folder) / name).relative_to(self.root).as_posix())

    def _stat(self, path: str) -> FileInfo:
        found = Path(self.uri(path))
        if found.is_dir():
            raise FileNotFoundError(errno.ENOENT, "a folder, not a file")
        facts = found.stat()
        return FileInfo(path, facts.st_size, f"{facts.st_mtime_ns:x}-{facts.st_size}")

    def _open(self, path: str, scattered: bool) -> AbstractContextManager[BinaryIO]:
        return Path(self.uri(path)).open("rb")

    def _put(self, path: str, data: bytes) -> None:
        target = Path(self.uri(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}")
        try:
            with temporary.open("xb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(target.parent, os.O_RDONLY)  # the new name itself must survive a power cut too
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _delete(self, path: str) -> None:
        Path(self.uri(path)).unlink()


class RemoteStore(Store):
    """A prefix of an object store, or of whatever else fsspec can reach."""

    def _list(self, prefix: str) -> Iterator[FileInfo]:
        fs, uri = self._fresh(), self.uri(prefix)
        base = fs._strip_protocol(self.root).rstrip("/")
        for name, info in fs.find(uri, detail=True).items():
            path = name[len(base) :].lstrip("/")
            if info["type"] == "file" and not name.endswith("/") and not name.split("/")[-1].startswith(_TEMPORARY):
                yield FileInfo(path, info["size"], _etag(info))

    def _stat(self, path: str) -> FileInfo:
        info = self._fresh().info(self.uri(path))
        if info["type"] != "file":
            raise FileNotFoundError(errno.ENOENT, "a folder, not a file")
        return FileInfo(path, info["size"], _etag(info))

    def _open(self, path: str, scattered: bool) -> AbstractContextManager[BinaryIO]:
        cache = "none" if scattered else "readahead"
        return cast("AbstractContextManager[BinaryIO]", self._fresh().open(self.uri(path), "rb", cache_type=cache))

    def _put(self, path: str, data: bytes) -> None:
        self._fresh().pipe_file(self.uri(path), data)

    def _delete(self, path: str) -> None:
        self._fresh().rm_file(self.uri(path))

    def _fresh(self) -> Any:
        protocol, _, rest = self.root.partition("://")
        fs = _connect(protocol, rest.partition("/")[0], os.getpid())
        fs.invalidate_cache()
        return fs


def open_store(uri: str) -> Store:
    """Make the spec for `uri`; touches neither disk nor network.

    Raises ValueError for an empty URI, an ``s3://`` without a bucket, and a protocol that fsspec doesn't know.
    """
    protocol, found, rest = uri.partition("://")
    if not uri.strip():
        raise ValueError("an empty URI: give a path, file://…, s3://bucket/… or another fsspec URI")
    if not found or protocol == "file":
        return LocalStore(os.path.normpath(Path(rest if found else uri).expanduser().absolute()))
    protocol = "s3" if protocol in ("s3a", "s3n") else protocol
    if protocol == "s3" and not rest.partition("/")[0]:
        raise ValueError(f"{uri!r} names no bucket: write s3://bucket/prefix")
    try:
        fsspec.get_filesystem_class(protocol)
    except (ValueError, ImportError) as error:
        raise ValueError(f"{masked(uri)}: unknown protocol {protocol!r}: {error}") from error
    return RemoteStore(f"{protocol}://{rest.rstrip('/')}")


@functools.lru_cache(maxsize=32)
def _connect(protocol: str, host: str, pid: int) -> Any:
    """Connect once a process (`pid`: a forked child must not share its parent's sockets); threads share it."""
    if protocol != "s3":
        return fsspec.core.url_to_fs(f"{protocol}://{host}", skip_instance_cache=True)[0]
    options = {"config_kwargs": _S3_CONFIG, "default_block_size": _S3_BLOCK_BYTES}
    fs = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True, **options)
    fs.retries = _S3_ATTEMPTS
    return fs


def _etag(info: dict[str, Any]) -> str:
    for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created"):
        if value := info.get(key):  # some filesystems give a time as a datetime here and as seconds there
            return str(value.timestamp() if isinstance(value, datetime) else value).strip('"')
    return f"-{info['size']}"


def _raise(error: OSError) -> None:
    raise error
