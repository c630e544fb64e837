"""Going on from a bundle: its trunk learns hidden words on more text (Gururangan et al. 2020), its heads stay behind.

What it was trained on before isn't repeated, so what it knew fades with long runs and high rates.
"""

from __future__ import annotations

from jobs.train.pretrain_settings import ArchitectureSettings, PretrainError, PretrainSettings, TokenizerSettings
from models.architecture import Architecture
from models.bundle import Bundle
from models.fetch import fetch, split_reference
from models.trunk import Trunk
from models.weights import load_trunk


def follow(settings: PretrainSettings, parent: Bundle) -> PretrainSettings:
    """The settings with the parent's shape and tokenizer, and the parent named by its digest.

    Raises
    ------
    PretrainError : it has no packed trunk, or fewer positions than `architecture.max_length`.
    ValueError : a pass has no room for its longest text.
    """
    arch, given = packed_shape(parent), settings.architecture
    max_length = given.max_length if "max_length" in given.model_fields_set else parent.spec.max_length
    if max_length > arch.max_length:
        raise PretrainError(f"architecture.max_length {max_length}: bundle {parent} has {arch.max_length} positions")
    shape = ArchitectureSettings(
        family=arch.family,
        hidden_size=arch.hidden_size,
        num_hidden_layers=arch.num_hidden_layers,
        num_attention_heads=arch.num_attention_heads,
        intermediate_size=arch.intermediate_size,
        max_length=max_length,
        dropout=given.dropout,
    )
    assert settings.bundle is not None
    followed = settings.model_copy(
        update={
            "bundle": f"{split_reference(settings.bundle)[0]}@{parent.digest}",
            "architecture": shape,
            "tokenizer": TokenizerSettings(use=str(parent.folder)),
        }
    )
    followed.check_room()
    return followed


def packed_shape(parent: Bundle) -> Architecture:
    """The parent's architecture.

    Raises
    ------
    PretrainError : its family has no packed trunk.
    """
    arch = parent.spec.architecture
    if not isinstance(arch, Architecture):
        raise PretrainError(f"bundle {parent} is of the family {arch.model_type}, which has no packed trunk to train")
    return arch


def begin_as(trunk: Trunk, reference: str) -> None:
    """Give the trunk, which has no pooler, the weights of the bundle that `reference` names."""
    parent = fetch(reference)
    trunk.load_state_dict(load_trunk(packed_shape(parent), parent.tensors(), has_pooler=False).state_dict())
