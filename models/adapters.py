"""Low-rank adapters (Hu et al. 2021): a bundle that is only what sets it apart from its base.

Each matrix of the trunk's layers is the base's plus `up @ down`, two narrow matrices; stored as `adapters.<module>.up`
and `.down` under the packed trunk's names. They are merged when weights are loaded, so every way to compute sees an
ordinary trunk, at the speed of one. Given up: two adapters of one base share no memory in a process.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from models.architecture import Architecture
from models.weights import load_trunk, to_transformers

PREFIX, UP, DOWN = "adapters.", ".up", ".down"


def merge(
    arch: Architecture, base: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """All weights of an adapted bundle, under a bundle's names; a head of its own replaces the base's of that name.

    Raises
    ------
    ValueError : an adapter that doesn't fit the trunk; the message names it, with both shapes.
    """
    trunk = load_trunk(arch, base, has_pooler=any(".pooler." in name for name in base))
    for name in own:
        if name.startswith(PREFIX) and name.endswith(DOWN):
            _adapt(trunk, name.removesuffix(DOWN), own)
    replaced = tuple(f"{name.rpartition('.')[0]}." for name in own if name.startswith("heads."))
    heads = {n: t for n, t in base.items() if n.startswith("heads.") and not n.startswith(replaced)}
    return to_transformers(trunk) | heads | {n: t for n, t in own.items() if not n.startswith(PREFIX)}


def _adapt(trunk: nn.Module, name: str, own: Mapping[str, torch.Tensor]) -> None:
    modules = {module_name: module for module_name, module in trunk.named_modules() if isinstance(module, nn.Linear)}
    module = modules.get(name.removeprefix(PREFIX))
    down, up = own[name + DOWN].float(), own.get(name + UP, torch.zeros(0, 0)).float()
    if module is None or (len(up), down.shape[1]) != tuple(module.weight.shape) or up.shape[1] != len(down):
        expected = None if module is None else tuple(module.weight.shape)
        raise ValueError(
            f"adapter {name} of shapes {tuple(up.shape)} and {tuple(down.shape)} doesn't fit the base's matrix "
            f"{expected}"
        )
    module.weight = nn.Parameter(module.weight.detach() + up @ down)
