"""Distributed checkpoints (`torch_dist`) of Megatron-Core: `.metadata`, `*.distcp` and `common.pt`.

torch.distributed.checkpoint reads them in one process, but it unpickles `.metadata` with no guard; here that file goes
through an unpickler that builds torch's own description classes and nothing else. Only tensors of the model are read:
optimiser states stay on disk, and byte entries, which torch would unpickle, are left alone. Layers are stored stacked
(layers x …) unless the run was of differing layers; they come out one by one.
"""

from __future__ import annotations

import collections
import io
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem, metadata, state_dict_loader
from torch.distributed.checkpoint.api import CheckpointException

from models.convert.errors import ConversionError
from models.convert.layout import METADATA_FILE
from models.convert.safe_load import load_pickled, refusal
from models.convert.shard import Shard, arguments_of, version_of

_COMMON_FILE = "common.pt"
_LAYERS = ".layers."
_CLASSES: dict[tuple[str, str], Any] = {
    **{
        (kind.__module__, kind.__name__): kind
        for kind in (
            metadata.BytesStorageMetadata,
            metadata.ChunkStorageMetadata,
            metadata.Metadata,
            metadata.MetadataIndex,
            metadata.StorageMeta,
            metadata.TensorProperties,
            metadata.TensorStorageMetadata,
            metadata._MEM_FORMAT_ENCODING,
            filesystem._StorageInfo,
        )
    },
    **dict.fromkeys([("pathlib", "PosixPath"), ("pathlib._local", "PosixPath")], Path),
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("builtins", "set"): set,
    ("builtins", "dict"): dict,
}


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Give a class of a checkpoint's description; nothing else is looked up, let alone imported."""
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        if (module, name) in _CLASSES:
            return _CLASSES[module, name]
        raise ConversionError(f"{METADATA_FILE} is refused: it asks for {module}.{name}, and code is never loaded")


class _Reader(filesystem.FileSystemReader):
    def read_metadata(self, *_: Any, **__: Any) -> metadata.Metadata:
        """Read the description, guarded."""
        return _read_metadata(Path(self.path))


def load_distributed(folder: Path) -> Shard:
    """Read all model tensors of a distributed checkpoint, whole, as if they were one shard's.

    Raises
    ------
    ConversionError : no `common.pt`, a damaged or missing file, or a description that asks for more than tensors.
    """
    if not (folder / _COMMON_FILE).is_file():
        raise ConversionError(f"{folder} lacks {_COMMON_FILE}, which says what the checkpoint is")
    common = load_pickled(folder / _COMMON_FILE)
    return Shard(
        label=folder.name,
        version=version_of({"checkpoint_version": 3.0, **common}, folder / _COMMON_FILE),
        iteration=common.get("iteration"),
        arguments=arguments_of(common),
        tensors=dict(_layer_by_layer(_read_tensors(folder))),
    )


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    described = _read_metadata(folder).state_dict_metadata
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in described.items()
        if isinstance(entry, metadata.TensorStorageMetadata) and not name.startswith(("optimizer.", "rng_state"))
    }
    try:
        with warnings.catch_warnings(action="ignore"):  # it says that one process loads, which is the point
            state_dict_loader.load(dict(tensors), storage_reader=_Reader(folder), no_dist=True)
    except CheckpointException as error:  # no Exception, and a traceback for a message
        causes = [cause for cause, _ in error.failures.values()]
        raise ConversionError(refusal(folder, causes[0])) from error
    return tensors


def _read_metadata(folder: Path) -> metadata.Metadata:
    try:
        read = _MetadataUnpickler(io.BytesIO((folder / METADATA_FILE).read_bytes())).load()
    except ConversionError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise ConversionError(f"{folder / METADATA_FILE} can't be read, it may be damaged: {error}") from error
    if not isinstance(read, metadata.Metadata):
        raise ConversionError(f"{folder / METADATA_FILE} must hold checkpoint metadata, got {type(read).__name__}")
    return read


def _layer_by_layer(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in tensors.items():
        before, stacked, after = name.partition(_LAYERS)
        if stacked and not after[0].isdecimal():
            yield from ((f"{before}{_LAYERS}{index}.{after}", layer) for index, layer in enumerate(tensor))
        else:
            yield name, tensor
