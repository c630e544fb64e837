"""From what a user calls a bundle to a checked folder on this machine.

A reference is one of
    starter                    a bundle that ships with the program (models/bundles/)
    path/to/folder             a bundle, or a Hugging Face folder of a sequence classifier
    s3://bucket/bundles/mine   the same in any store that fsspec knows
    org/model                  a Hugging Face id; `org/model:revision` pins it
and each may end in `@digest`, which must then be what is found.

What isn't local goes to a cache (`$VERBATIM_CACHE`, else ~/.cache/verbatim) once a machine: processes that start
together wait for one download, and a download is renamed into place whole, so one that is killed halfway leaves nothing
that looks finished. Hugging Face folders are turned into a bundle there. Given up: the cache is never pruned.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock

from models.bundle import DIGEST_CHARS, SPEC_FILE, Bundle, BundleError, load_bundle
from models.cache import cache_root

SHIPPED = Path(__file__).parent / "bundles"
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+(?::(?P<revision>[\w./-]+))?$")
_TAGS = ("ETag", "etag", "md5Hash", "size", "mtime", "LastModified", "last_modified", "created")  # as stores call them
_DIGEST = re.compile(rf"@([0-9a-f]{{{DIGEST_CHARS}}})$")
_CONFIG_FILE = "config.json"
_CONVERTER = 2  # raise it when `make_bundle` would make another bundle of the same folder
_WANTED = ("*.json", "*.safetensors", "*.yaml", "*.md", "*.txt", "*.model")


def fetch(reference: str) -> Bundle:
    """Give the bundle that `reference` names, checked, in a local folder.

    Raises
    ------
    BundleError : nothing is found under that name, it can't be fetched, it is damaged, or its digest is another one.
    """
    where, digest = split_reference(reference)
    bundle = load_bundle(_folder(where))
    if digest and bundle.digest != digest:
        raise BundleError(f"bundle {where} has digest {bundle.digest}, but {digest} was asked for")
    return bundle


def shipped_names() -> list[str]:
    """Names of the bundles that come with the program."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{SPEC_FILE}"))


def cache_folder() -> Path:
    """Where fetched bundles are kept."""
    return cache_root() / "bundles"


def split_reference(reference: str) -> tuple[str, str]:
    """Cut `where@digest`; the digest is empty if none is asked for. `sftp://user@host/…` keeps its `@`."""
    match = _DIGEST.search(reference)
    return (reference[: match.start()], match[1]) if match else (reference, "")


def _folder(where: str) -> Path:
    if where in shipped_names():
        return SHIPPED / where
    if "://" in where and not where.startswith("file://"):
        return _from_store(where)
    path = Path(where.removeprefix("file://")).expanduser()
    if path.is_dir():
        return _as_bundle(path, path.resolve().name)
    if _HUB_ID.match(where):
        return _from_hub(where)
    raise BundleError(
        f"bundle {where!r} isn't a folder here, a store's URI or a Hugging Face id; "
        f"shipped bundles: {', '.join(shipped_names()) or 'none'}"
    )


def _as_bundle(folder: Path, name: str) -> Path:
    """A bundle stays where it is; a Hugging Face folder becomes one in the cache."""
    if (folder / SPEC_FILE).exists() or not (folder / _CONFIG_FILE).exists():
        return folder
    state = "".join(f"{f.name} {f.stat().st_size} {f.stat().st_mtime_ns}\n" for f in sorted(folder.iterdir()))
    return _convert(f"{folder.resolve()}\n{state}", folder, name)


def _from_hub(where: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - rarely needed, slow to import

    name, _, revision = where.partition(":")
    try:
        folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=list(_WANTED)))
    except Exception as error:  # the hub's errors have no common base: any of them means that it can't be fetched
        raise BundleError(f"bundle {where!r} isn't a folder here and can't be had from the hub: {error}") from error
    if (folder / SPEC_FILE).exists():
        return folder
    return _convert(str(folder), folder, name.rpartition("/")[2])


def _convert(key: str, folder: Path, name: str) -> Path:
    """Make a bundle of a Hugging Face folder, in the cache."""
    from models.huggingface import make_bundle  # noqa: PLC0415 - importing transformers takes seconds

    return _once(f"{_CONVERTER}\n{key}", lambda target: make_bundle(folder, target, name))


def _from_store(uri: str) -> Path:
    try:
        filesystem, root = fsspec.core.url_to_fs(uri)
        files = _list_files(filesystem, root)
    except Exception as error:  # every store has its own errors: any of them means that it can't be fetched
        raise BundleError(f"bundle {uri} can't be read: {type(error).__name__}: {error}") from error
    if not files:
        raise BundleError(f"bundle {uri} holds no files: expected {SPEC_FILE} or a Hugging Face {_CONFIG_FILE}")
    state = "".join(f"{name} {[f.get(tag) for tag in _TAGS]}\n" for name, f in sorted(files.items()))

    def download(target: Path) -> None:
        for name, file in files.items():
            if any(fnmatch(name, pattern) for pattern in _WANTED):
                (target / name).parent.mkdir(exist_ok=True)
                filesystem.get_file(file["name"], str(target / name))

    return _as_bundle(_once(f"{uri}\n{state}", download), uri.rstrip("/").rpartition("/")[2])


def _list_files(filesystem: fsspec.AbstractFileSystem, root: str) -> dict[str, dict[str, Any]]:
    """Files by their name below `root`, one level of folders deep: as deep as Hugging Face folders go."""
    files, folders = {}, []
    for entry in filesystem.ls(root, detail=True, refresh=True):
        name = Path(str(entry["name"])).name
        if entry["type"] == "file":
            files[name] = entry
        else:
            folders.append((name, entry["name"]))
    for folder, path in folders:
        inner = [entry for entry in filesystem.ls(path, detail=True, refresh=True) if entry["type"] == "file"]
        files |= {f"{folder}/{Path(str(entry['name'])).name}": entry for entry in inner}
    return files


def _once(key: str, fill: Callable[[Path], object]) -> Path:
    """Give the cache folder of `key`, filled by exactly one process of this machine."""
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    final = cache_folder() / name
    if final.exists():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(final.with_suffix(".lock")):
        if final.exists():
            return final
        for left in final.parent.glob(f"{name}.part-*"):  # of a process that was killed: the lock is ours, so it's dead
            shutil.rmtree(left)
        part = Path(tempfile.mkdtemp(prefix=f"{name}.part-", dir=final.parent))
        try:
            fill(part)
            part.rename(final)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    return final
