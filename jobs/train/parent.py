"""Going on from a bundle: its trunk learns hidden words on more text (Gururangan et al. 2020), its heads stay behind.

What it was trained on before isn't repeated, so what it knew may fade with long runs and high rates.
"""

from __future__ import annotations

from jobs.train.pretrain_settings import ArchitectureSettings, PretrainError, PretrainSettings, TokenizerSettings
from models.bundle import Bundle
from models.fetch import fetch, split_reference
from models.trunk import Trunk
from models.weights import load_trunk


def follow(settings: PretrainSettings, parent: Bundle) -> PretrainSettings:
    """The settings with the parent's shape and tokenizer, and the parent named by its digest.

    Raises
    ------
    PretrainError : it has fewer positions than `architecture.max_length`.
    ValueError : it has no packed trunk, or a pass no room for its longest text.
    """
    arch, given = parent.packed_architecture, settings.architecture
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


def begin_as(trunk: Trunk, reference: str) -> None:
    """Give the trunk, which has no pooler, the weights of the bundle that `reference` names."""
    parent = fetch(reference)
    trunk.load_state_dict(load_trunk(parent.packed_architecture, parent.tensors(), has_pooler=False).state_dict())
