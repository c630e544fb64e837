"""Hugging Face folders of plain sequence classifiers, made into bundles.

Megatron-BERT gets the packed trunk; any other family keeps its own weights and `config.json` and runs through
transformers' forward pass behind the same scorer. Labels are read from the checkpoint's config. Only safetensors are
read, and code that a checkpoint brings along is never run.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoTokenizer

from models.architecture import Architecture, ForeignArchitecture
from models.bundle import TOKENIZER_FILE, WEIGHTS_FILE, Bundle, BundleError, BundleSpec, save_bundle
from models.heads import SENTIMENT, SENTIMENT_LABELS, HeadSpec

CONFIG_FILE = "config.json"
_CLASSIFIER = "ForSequenceClassification"
_SYNONYMS = {"neg": "negative", "neu": "neutral", "pos": "positive"}
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert")  # these number positions from pad_token_id + 1
_STARS = re.compile(r"^([1-9]|10) ?(?:stars?)?$", re.IGNORECASE)


def make_bundle(folder: Path, target: Path, name: str) -> Bundle:
    """Write the bundle of the sequence classifier in `folder` to the empty folder `target`.

    Raises
    ------
    BundleError : not a sequence classifier, no single safetensors file, no fast tokeniser, or code of its own.
    """
    config = _read_config(folder)
    if not (folder / WEIGHTS_FILE).is_file():
        raise BundleError(f"{folder} has no {WEIGHTS_FILE}; pickled weights are never loaded, convert them first")
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
    except SafetensorError as error:
        raise BundleError(f"{folder / WEIGHTS_FILE} isn't a readable safetensors file: {error}") from error
    head = _head(folder, config)
    limit = _write_tokenizer(folder, target, _num_positions(config))
    architecture = _architecture(config)
    if isinstance(architecture, Architecture):
        tensors = _renamed(tensors, head)
        extra: tuple[str, ...] = ()
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


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder / CONFIG_FILE} can't be read: {error}") from error
    if "auto_map" in config:
        raise BundleError(f"{folder} brings its own code (auto_map in {CONFIG_FILE}), which is never run")
    named = config.get("architectures") or ["none"]
    if not named[0].endswith(_CLASSIFIER):
        raise BundleError(f"{folder} is a {named[0]}; a bundle is made of a …{_CLASSIFIER} only")
    if config.get("problem_type") in ("multi_label_classification", "regression"):
        raise BundleError(f"{folder}: problem_type {config['problem_type']} isn't known; single-label classifiers are")
    if "max_position_embeddings" not in config:
        raise BundleError(f"{folder / CONFIG_FILE} lacks max_position_embeddings, so the length limit is unknown")
    return config


def _head(folder: Path, config: dict[str, Any]) -> HeadSpec:
    names = config.get("id2label") or {}
    labels = [str(names[key]) for key in sorted(names, key=int)]
    if len(labels) < 2:
        raise BundleError(f"{folder / CONFIG_FILE}: id2label must give at least two labels, got {labels}")
    plain = [_SYNONYMS.get(label.lower(), label.lower()) for label in labels]
    if set(plain) <= set(SENTIMENT_LABELS):
        return HeadSpec(name=SENTIMENT, labels=tuple(plain))
    if all(grades := [_STARS.match(label) for label in labels]):
        return HeadSpec(name="stars", kind="ordinal", labels=tuple(grade[1] for grade in grades if grade))
    return HeadSpec(name="label", labels=tuple(labels))


def _num_positions(config: dict[str, Any]) -> int:
    taken = int(config["pad_token_id"]) + 1 if config["model_type"] in _OFFSET_POSITIONS else 0
    return int(config["max_position_embeddings"]) - taken


def _architecture(config: dict[str, Any]) -> Architecture | ForeignArchitecture:
    if config["model_type"] != "megatron-bert":
        return ForeignArchitecture(model_type=config["model_type"], max_position_embeddings=_num_positions(config))
    if config.get("hidden_act", "gelu") != "gelu":
        raise BundleError(f"hidden_act {config['hidden_act']!r} isn't known for megatron-bert: expected gelu")
    fields = Architecture.model_fields.keys() - {"family"}
    return Architecture(**{name: config[name] for name in fields if name in config})


def _renamed(tensors: dict[str, torch.Tensor], head: HeadSpec) -> dict[str, torch.Tensor]:
    trunk = {name: tensor for name, tensor in tensors.items() if name.startswith("bert.")}
    return trunk | {f"heads.{head.name}.{part}": tensors[f"classifier.{part}"] for part in ("weight", "bias")}


def _write_tokenizer(folder: Path, target: Path, max_positions: int) -> int:
    """Save the fast tokeniser and give the longest text in tokens, special ones counted, that the model takes."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder} has no usable tokeniser: {error}") from error
    if not tokenizer.is_fast:
        raise BundleError(f"{folder}: {type(tokenizer).__name__} has no fast (Rust) form; save a tokenizer.json for it")
    tokenizer.backend_tokenizer.save(str(target / TOKENIZER_FILE))
    return min(int(tokenizer.model_max_length), max_positions)
