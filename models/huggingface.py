"""Hugging Face folders made into bundles: classifiers of texts and of tokens, and encoders that embed.

Megatron-BERT, BERT, RoBERTa and XLM-R get the packed trunk; any other family keeps its own weights and `config.json`
and runs through transformers' forward pass behind the same scorer. Only safetensors are read, and code that a
checkpoint brings along is never run. Given up: checkpoints of several weight files.
"""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from models.architecture import Architecture, ForeignArchitecture
from models.bundle import TOKENIZER_FILE, WEIGHTS_FILE, Bundle, BundleError, BundleSpec, save_bundle
from models.checkpoint import CONFIG_FILE, read_config, read_head, sentence_limit
from models.heads import HeadSpec
from models.readout import Readout, poolings
from models.weights import PREFIXES, trunk_tensors

log = logging.getLogger("verbatim.models")

# These number positions from pad_token_id + 1, and `max_position_embeddings` counts the rows before it too.
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "roberta-prelayernorm", "mpnet")


def make_bundle(folder: Path, target: Path, name: str) -> Bundle:
    """Write the bundle of the checkpoint in `folder` to the empty folder `target`.

    Raises
    ------
    BundleError : no classifier or encoder, no single safetensors file, weights that aren't its config's, no fast
        tokeniser, or code of its own.
    """
    config = read_config(folder)
    tensors = _read_tensors(folder)
    head = read_head(folder, config)
    limit = _write_tokenizer(folder, target, _num_positions(config))
    architecture = _architecture(folder, config)
    extra: tuple[str, ...] = ()
    if isinstance(architecture, Architecture):
        tensors = _bundled(folder, tensors, architecture, head)
    else:
        shutil.copyfile(folder / CONFIG_FILE, target / CONFIG_FILE)
        extra = (CONFIG_FILE,)
    spec = BundleSpec(
        name=re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip(".-_") or "model",
        languages=("und",),
        max_length=limit,
        architecture=architecture,
        heads=(head,),
        files=dict.fromkeys(extra, ""),
    )
    card = f"# {spec.name}\n\nMade from a Hugging Face checkpoint ({config['model_type']}). Its own card applies.\n"
    return save_bundle(target, spec, tensors, card)


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    if not (folder / WEIGHTS_FILE).is_file():
        raise BundleError(
            f"{folder} has no {WEIGHTS_FILE}; pickled weights are read by `python -m models.convert import` alone"
        )
    try:
        return load_file(folder / WEIGHTS_FILE)
    except SafetensorError as error:
        raise BundleError(f"{folder / WEIGHTS_FILE} isn't a readable safetensors file: {error}") from error


def _num_positions(config: dict[str, Any]) -> int:
    taken = int(config.get("pad_token_id", 1)) + 1 if config["model_type"] in _OFFSET_POSITIONS else 0
    return int(config["max_position_embeddings"]) - taken


def _architecture(folder: Path, config: dict[str, Any]) -> Architecture | ForeignArchitecture:
    family, activation = config["model_type"], config.get("hidden_act", "gelu")
    if family in PREFIXES and activation == "gelu":
        whole = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False).to_dict()
        shape = {name: whole[name] for name in Architecture.model_fields if name in whole}
        return Architecture(family=family, **shape)
    log.warning(
        "%s has no packed trunk here (family %s, hidden_act %s): it will run padded", folder, family, activation
    )
    return ForeignArchitecture(model_type=family, max_position_embeddings=_num_positions(config))


def _bundled(
    folder: Path, tensors: dict[str, torch.Tensor], arch: Architecture, head: HeadSpec
) -> dict[str, torch.Tensor]:
    """The tensors a bundle keeps: the trunk's, and the checkpoint's classifier as the head's."""
    layers = {
        f"heads.{head.name}.{name.removeprefix('classifier.').removeprefix('out_proj.')}": tensor
        for name, tensor in tensors.items()
        if name.startswith("classifier.")
    }
    try:
        trunk = trunk_tensors(arch, tensors, has_pooler="pooler" in poolings([head]))
        Readout([head], layers, torch.device("cpu"))
    except ValueError as error:
        raise BundleError(f"{folder / WEIGHTS_FILE}: {error}") from error
    return trunk | layers


def _write_tokenizer(folder: Path, target: Path, max_positions: int) -> int:
    """Save the fast tokeniser and give the longest text in tokens, special ones counted, that the model takes."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder} has no usable tokeniser: {error}") from error
    if not tokenizer.is_fast:
        raise BundleError(f"{folder}: {type(tokenizer).__name__} has no fast (Rust) form; save a tokenizer.json for it")
    tokenizer.backend_tokenizer.save(str(target / TOKENIZER_FILE))
    return min(int(tokenizer.model_max_length), max_positions, sentence_limit(folder) or max_positions)
