"""Where the shards of a Megatron-LM checkpoint lie.

    latest_checkpointed_iteration.txt             names the iteration, or `release`
    release/ or iter_0001000/
        mp_rank_00/model_optim_rng.pt             one folder a tensor-parallel rank
        mp_rank_00_000/model_optim_rng.pt         the same with a pipeline stage
        .metadata, __0_0.distcp, common.pt        or a distributed checkpoint, of no fixed ranks

Any of these may be given, or one shard (all of its siblings are read), or a zip of them, as NVIDIA's releases come.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.convert.errors import ConversionError

METADATA_FILE = ".metadata"
_TRACKER_FILE = "latest_checkpointed_iteration.txt"
_SHARD_FILES = ("model_optim_rng.pt", "model_rng.pt")
_RANK = re.compile(r"^mp_rank_(\d{2,})(?:_(\d{3,}))?$")


@contextmanager
def iteration_folder(path: Path) -> Iterator[Path]:
    """Give the folder that holds `.metadata` or the `mp_rank_…` folders; a zip's shards are unpacked while it lasts."""
    if not path.exists():
        raise ConversionError(f"there is no checkpoint {path}")
    if path.is_dir():
        yield _iteration(path)
    elif members := _zipped_shards(path):
        with tempfile.TemporaryDirectory(prefix="verbatim-") as unpacked:
            _unpack(path, members, Path(unpacked))
            yield Path(unpacked)
    elif _RANK.match(path.parent.name):
        yield path.parent.parent
    else:
        raise ConversionError(f"{path} must stand in a folder mp_rank_00, as Megatron-LM writes it")


def find_shards(folder: Path) -> dict[tuple[int, int], Path]:
    """Give the file of each (tensor-parallel rank, pipeline stage); every pair of the grid is there.

    Raises
    ------
    ConversionError : no shards, or one is missing.
    """
    found: dict[tuple[int, int], Path] = {}
    for child in sorted(folder.iterdir()):
        if (match := _RANK.match(child.name)) and (file := _shard_file(child)):
            found[int(match[1]), int(match[2] or 0)] = file
    if not found:
        raise ConversionError(f"{folder} holds no mp_rank_00/{_SHARD_FILES[0]} and no {METADATA_FILE}")
    num_ranks, num_stages = (max(keys) + 1 for keys in zip(*found, strict=True))
    for rank, stage in ((rank, stage) for rank in range(num_ranks) for stage in range(num_stages)):
        if (rank, stage) not in found:
            raise ConversionError(
                f"{folder} lacks the shard of tensor-parallel rank {rank}, pipeline stage {stage}; "
                f"found {[file.parent.name for file in found.values()]}"
            )
    return found


def _iteration(folder: Path) -> Path:
    if (tracker := folder / _TRACKER_FILE).is_file():
        text = tracker.read_text(encoding="utf-8").strip()
        name = f"iter_{int(text):07d}" if text.isdecimal() else text
        if name != "release" and not text.isdecimal():
            raise ConversionError(f"{tracker} must hold a number or 'release', got {text!r}")
        if not (folder / name).is_dir():
            raise ConversionError(f"{tracker} names {text}, but there is no folder {folder / name}")
        return folder / name
    return release if (release := folder / "release").is_dir() else folder


def _shard_file(folder: Path) -> Path | None:
    return next((folder / name for name in _SHARD_FILES if (folder / name).is_file()), None)


def _zipped_shards(path: Path) -> list[str]:
    """Members that are shards; none if `path` is no zip, or the zip that torch itself writes."""
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        names = [Path(name) for name in archive.namelist()]
    return [str(name) for name in names if name.name in _SHARD_FILES and _RANK.match(name.parent.name)]


def _unpack(path: Path, members: list[str], target: Path) -> None:
    """Names inside the zip are never followed: each shard goes to `target/mp_rank_…/`."""
    with zipfile.ZipFile(path) as archive:
        for member in members:
            folder = target / Path(member).parent.name
            folder.mkdir(exist_ok=True)
            with archive.open(member) as source, (folder / Path(member).name).open("wb") as file:
                shutil.copyfileobj(source, file)
