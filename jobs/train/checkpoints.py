"""Checkpoints of a pretraining in any store: plain tensors under their names, whole, whoever held which part of them.

    checkpoints/step-00001200/part-000.safetensors …   no larger than asked; a large tensor lies in several
    checkpoints/step-00001200/checkpoint.json          step, recipe, shapes, SHA-256 of the parts; written last

A folder without its `checkpoint.json` isn't one, so a kill while saving leaves the one before. Tensors are written and
read one part at a time, so a model over one GPU's memory needs no host that holds it twice; and as they are whole, a
run can go on with more or fewer workers. Given up: workers that each write their own part, which would be faster.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from cluster.stores import LocalStore, Store
from jobs.train.optim import Optimizer
from jobs.train.pretrain_settings import PretrainError

MANIFEST = "checkpoint.json"
_MODEL, _OPTIMIZER = "model.", "optimizer."
_AT = "@"  # name@first element
_HEADER_BYTES = 256  # of a safetensors file, and of each piece's entry there beside its name


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: where it lies, its step, the recipe it was made by, and its tensors' shapes."""

    store: Store
    step: int
    recipe: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    files: Mapping[str, str]

    def model_tensors(self) -> dict[str, torch.Tensor]:
        """The model's weights under its own names."""
        return {name.removeprefix(_MODEL): tensor for name, tensor in self._tensors() if name.startswith(_MODEL)}

    def load(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Fill in weights and optimizer.

        Raises
        ------
        PretrainError : a part is damaged; a tensor is missing, strange, or has another shape.
        """
        parameters = dict(model.named_parameters())
        self._check_shapes({name: tuple(parameter.shape) for name, parameter in parameters.items()})
        for name, tensor in self._tensors():
            if name.startswith(_MODEL):
                parameter = parameters[name.removeprefix(_MODEL)]
                with torch.no_grad():
                    parameter.copy_(_spread_as(parameter, tensor))
            else:
                owner, _, key = name.removeprefix(_OPTIMIZER).rpartition(".")
                parameter = parameters[owner]
                optimizer.state_of(parameter)[key] = (
                    _spread_as(parameter, tensor) if tensor.shape == parameter.shape else tensor.to(parameter.device)
                )

    def _check_shapes(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        found = {n.removeprefix(_MODEL): shape for n, shape in self.shapes.items() if n.startswith(_MODEL)}
        for name, shape in expected.items():
            if name not in found:
                raise PretrainError(f"checkpoint {self.store.root} lacks the tensor {name} {shape}")
            if found[name] != shape:
                raise PretrainError(
                    f"checkpoint {self.store.root}: tensor {name} has shape {found[name]}, expected {shape}"
                )
        if strange := sorted(found.keys() - expected.keys()):
            raise PretrainError(f"checkpoint {self.store.root} has tensors that the model hasn't: {', '.join(strange)}")

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All tensors, one after the other, put together out of their pieces."""
        whole, filled = torch.empty(0), 0
        place = {name: index for index, name in enumerate(self.shapes)}
        for file, expected in sorted(self.files.items()):
            part = self._read_part(file, expected)
            pieces = sorted(part.items(), key=lambda item: (place[_name(item[0])], _begin(item[0])))  # as written
            for key, piece in pieces:
                name, at = _name(key), _begin(key)
                shape = self.shapes[name]
                if at == 0:
                    whole, filled = torch.empty(math.prod(shape), dtype=piece.dtype), 0
                whole[at : at + len(piece)] = piece
                filled += len(piece)
                if filled == len(whole):
                    yield name, whole.view(shape)

    def _read_part(self, file: str, expected: str) -> dict[str, torch.Tensor]:
        data = self.store.read_bytes(file)
        if (found := hashlib.sha256(data).hexdigest()) != expected:
            raise PretrainError(
                f"{self.store.uri(file)} is damaged: sha256 {found}, expected {expected}; remove the folder "
                f"{self.store.root} to go on from the checkpoint before"
            )
        try:
            return load_tensors(data)
        except SafetensorError as error:
            raise PretrainError(f"{self.store.uri(file)} isn't a readable safetensors file: {error}") from error


def newest(store: Store) -> Checkpoint | None:
    """The last whole checkpoint below `store`; None if there is none.

    Raises
    ------
    PretrainError : its description can't be read.
    """
    steps = _whole(store)
    return open_checkpoint(store.child(steps[-1])) if steps else None


def open_checkpoint(folder: Store) -> Checkpoint:
    """Read a checkpoint's description.

    Raises
    ------
    PretrainError : it can't be read.
    """
    try:
        plain = json.loads(folder.read_bytes(MANIFEST))
        shapes = {name: tuple(shape) for name, shape in plain["shapes"].items()}
        return Checkpoint(folder, int(plain["step"]), plain["recipe"], shapes, plain["files"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PretrainError(f"{folder.uri(MANIFEST)} isn't a checkpoint's description: {error}") from error


def save(
    store: Store, step: int, recipe: Mapping[str, Any], tensors: Iterator[tuple[str, torch.Tensor]], max_bytes: int
) -> None:
    """Write a checkpoint; it appears whole or not at all."""
    folder = store.child(f"step-{step:08d}")
    shapes: dict[str, list[int]] = {}
    files: dict[str, str] = {}
    for number, part in enumerate(_parts(tensors, shapes, max_bytes)):
        data = save_tensors(part)
        files[f"part-{number:03d}.safetensors"] = hashlib.sha256(data).hexdigest()
        folder.put(f"part-{number:03d}.safetensors", data)
    plain = {"step": step, "recipe": recipe, "files": files, "shapes": shapes}
    folder.put(MANIFEST, json.dumps(plain, indent=1).encode())


def prune(store: Store, keep: int) -> None:
    """Remove all but the last whole checkpoints, and what cut-off ones have left; for who alone writes there."""
    kept = set(_whole(store)[-keep:])
    files = [info.path for info in store.list() if info.path.partition("/")[0] not in kept]
    for path in sorted(files, key=lambda path: not path.endswith(MANIFEST)):
        store.delete(path)
    store.sweep("")
    if isinstance(store, LocalStore):
        for folder in {Path(store.uri(path)).parent for path in files}:
            folder.rmdir()


def state_tensors(
    model: nn.Module, optimizer: Optimizer, keep: Callable[[torch.Tensor], torch.Tensor | None]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights and optimizer by name, whole; `keep` gives what a worker that writes is to write. All must call it."""
    for name, parameter in model.named_parameters():
        state = {f"{_MODEL}{name}": parameter.detach()}
        state |= {f"{_OPTIMIZER}{name}.{key}": value for key, value in optimizer.state_of(parameter).items()}
        for full_name, value in state.items():
            whole = keep(value.full_tensor() if isinstance(value, DTensor) else value)
            if whole is not None:
                yield full_name, whole


def _whole(store: Store) -> list[str]:
    return sorted(
        path.removesuffix(f"/{MANIFEST}") for path in (i.path for i in store.list()) if path.endswith(MANIFEST)
    )


def _parts(
    tensors: Iterator[tuple[str, torch.Tensor]], shapes: dict[str, list[int]], max_bytes: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Group pieces of tensors into parts under the limit; notes the shapes as it goes."""
    part: dict[str, torch.Tensor] = {}
    free = max_bytes - _HEADER_BYTES
    for name, tensor in tensors:
        shapes[name] = list(tensor.shape)
        flat = tensor.contiguous().view(-1)
        entry_bytes, size_bytes, at = _HEADER_BYTES + len(name), flat.element_size(), 0
        while at < len(flat):
            if part and free < entry_bytes + size_bytes:
                yield part
                part, free = {}, max_bytes - _HEADER_BYTES
            taken = max(1, min(len(flat) - at, (free - entry_bytes) // size_bytes))
            part[f"{name}{_AT}{at}"] = flat[at : at + taken].clone()
            at += taken
            free -= entry_bytes + taken * size_bytes
    if part:
        yield part


def _name(key: str) -> str:
    return key.rpartition(_AT)[0]


def _begin(key: str) -> int:
    return int(key.rpartition(_AT)[2])


def _spread_as(parameter: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """A whole tensor as a parameter's worker holds it."""
    whole = whole.to(parameter.device)
    if not isinstance(parameter, DTensor):
        return whole
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
