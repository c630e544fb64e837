"""The prepared data as few small files, for a machine that can't be reached but by copying some: a tar in parts.

The tar holds `work/data` and `work/terms.md` under their own paths, so that the recipe finds them on the other side in
the same place. Parquet is compressed already; the tar isn't. A list with the SHA-256 of each part says what is whole.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import tarfile
from pathlib import Path

log = logging.getLogger("verbatim.starter")

PART_BYTES = 15 * 2**20
MAX_PARTS = 7  # and the list
MAX_BYTES = 60_000_000
LIST = "parts.json"


class PackError(ValueError):
    """Parts that are too many, missing or broken; the message names them."""


def pack(work: Path, folder: Path) -> None:
    """Write the parts into `folder`.

    Raises
    ------
    PackError : nothing is prepared, or it is too much.
    """
    if work.is_absolute():
        raise PackError(f"work: {work} must be relative to the working directory, as it will be found there again")
    files = [*sorted((work / "data").glob("*.parquet")), work / "terms.md"]
    if not files[-1].is_file():
        raise PackError(f"nothing is prepared in {work}: run `python -m jobs.starter prepare` first")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for path in files:
            tar.add(path)
    whole = stream.getvalue()
    parts = [whole[start : start + PART_BYTES] for start in range(0, len(whole), PART_BYTES)]
    if len(whole) > MAX_BYTES or len(parts) > MAX_PARTS:
        raise PackError(f"{len(whole) / 1e6:.1f} MB in {len(parts)} parts, but {MAX_BYTES / 1e6:.0f} MB is the most")
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"starter.tar.{number}" for number in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        (folder / name).write_bytes(part)
    digests = {name: hashlib.sha256(part).hexdigest() for name, part in zip(names, parts, strict=True)}
    (folder / LIST).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
    log.info("%.1f MB in %d parts in %s", len(whole) / 1e6, len(parts), folder)


def unpack(folder: Path, root: Path) -> None:
    """Put the files in their places under `root`.

    Raises
    ------
    PackError : a part is missing or isn't the one that was written.
    """
    if not (folder / LIST).is_file():
        raise PackError(f"from: {folder} has no {LIST}: it isn't a folder that `pack` wrote")
    whole = b"".join(_part(folder / name, digest) for name, digest in json.loads((folder / LIST).read_bytes()).items())
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        tar.extractall(root, filter="data")
    log.info("unpacked %.1f MB into %s", len(whole) / 1e6, root.resolve().name)


def _part(path: Path, digest: str) -> bytes:
    if not path.is_file():
        raise PackError(f"part {path} is missing")
    content = path.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != digest:
        raise PackError(f"part {path} is broken: sha256 {found}, expected {digest}")
    return content
