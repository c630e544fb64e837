"""The model that every contender scores: one set of weights, as our bundle and as a Hugging Face folder.

By default a Megatron-BERT of random weights at the asked shape, with the shipped starter's tokeniser: speed doesn't
depend on what a model has learnt, and every peer computes the very same function, so that answers can be compared.
Given up: peers score a bundle's first head only, ours scores all of them.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from models.architecture import Architecture
from models.bundle import TOKENIZER_FILE, WEIGHTS_FILE, Bundle, BundleSpec, save_bundle
from models.fetch import fetch
from models.heads import HeadSpec
from models.trunk import Trunk
from models.weights import to_transformers

_SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
_STD = 0.02  # as Megatron-BERT is initialised
_HEAD_STD = 0.2  # lets the probabilities of random trunks differ by 0.1 from text to text, so that mix-ups show


@dataclass(frozen=True)
class Shape:
    """Size of a random trunk; its feed-forward is four times as wide as it."""

    layers: int = 6
    hidden: int = 384
    heads: int = 12
    max_length: int = 256


DEFAULT_SHAPE = Shape()


@dataclass(frozen=True)
class Model:
    """One model in two forms."""

    bundle: Bundle
    hf_folder: Path
    is_random: bool

    @property
    def architecture(self) -> Architecture:
        """The trunk's sizes."""
        assert isinstance(self.bundle.spec.architecture, Architecture)
        return self.bundle.spec.architecture


def random_model(folder: Path, shape: Shape, seed: int = 0) -> Model:
    """Write a model of random weights below `folder`; the same seed gives the same weights."""
    bundle = random_bundle(folder / "bundle", shape, seed)
    return Model(bundle, _export(bundle, folder / "hf"), is_random=True)


def bundled_model(folder: Path, reference: str) -> Model:
    """Write a user's own bundle as a Hugging Face folder below `folder`.

    Raises
    ------
    ValueError : the bundle isn't a Megatron-BERT, so this can't write it as transformers names it.
    """
    bundle = fetch(reference)
    family = bundle.spec.architecture.family
    if family != "megatron-bert":
        raise ValueError(f"bundle {reference} is of family {family}: the benchmark compares megatron-bert only")
    return Model(bundle, _export(bundle, folder / "hf"), is_random=False)


def random_bundle(folder: Path, shape: Shape, seed: int = 0) -> Bundle:
    """Write a bundle of random weights with the starter's vocabulary to the new folder `folder`."""
    starter = fetch("starter")
    assert isinstance(starter.spec.architecture, Architecture)
    arch = Architecture(
        vocab_size=starter.spec.architecture.vocab_size,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.hidden,
        max_position_embeddings=shape.max_length,
    )
    head = HeadSpec(name="sentiment", labels=("negative", "neutral", "positive"))
    folder.mkdir(parents=True)
    shutil.copyfile(starter.folder / TOKENIZER_FILE, folder / TOKENIZER_FILE)
    spec = BundleSpec(
        name=f"random-{shape.layers}x{shape.hidden}",
        languages=starter.spec.languages,
        max_length=shape.max_length,
        architecture=arch,
        heads=(head,),
        files={},
    )
    return save_bundle(folder, spec, _random_tensors(arch, head, seed), "# Random weights, for measuring speed\n")


def _random_tensors(arch: Architecture, head: HeadSpec, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    trunk = Trunk(arch)
    for name, parameter in trunk.named_parameters():
        if not name.endswith("norm.weight"):
            parameter.data.normal_(std=_STD, generator=generator)
    tensors = to_transformers(trunk)
    tensors[f"heads.{head.name}.weight"] = torch.empty(len(head.labels), arch.hidden_size).normal_(
        std=_HEAD_STD, generator=generator
    )
    tensors[f"heads.{head.name}.bias"] = torch.zeros(len(head.labels))
    return tensors


def _export(bundle: Bundle, folder: Path) -> Path:
    """Write the bundle's trunk and first head as transformers' `MegatronBertForSequenceClassification`."""
    folder.mkdir(parents=True)
    head, tensors = bundle.spec.heads[0], bundle.tensors()
    plain = {name: tensor.contiguous() for name, tensor in tensors.items() if name.startswith("bert.")}
    for part in ("weight", "bias"):
        plain[f"classifier.{part}"] = tensors[f"heads.{head.name}.{part}"] / head.temperature
    save_file(plain, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    shutil.copyfile(bundle.folder / TOKENIZER_FILE, folder / TOKENIZER_FILE)
    _write(folder / "config.json", _config(bundle))
    _write(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": bundle.spec.max_length, **_SPECIAL},
    )
    return folder


def _config(bundle: Bundle) -> dict[str, Any]:
    labels = bundle.spec.heads[0].labels
    return {
        **bundle.spec.architecture.model_dump(exclude={"family"}),
        "model_type": "megatron-bert",
        "architectures": ["MegatronBertForSequenceClassification"],
        "hidden_act": "gelu",
        "pad_token_id": 0,
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def _write(path: Path, plain: dict[str, Any]) -> None:
    path.write_text(json.dumps(plain, indent=1), encoding="utf-8")
