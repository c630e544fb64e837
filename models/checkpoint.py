"""What a Hugging Face folder says about itself: its config, and the head that comes with it.

    …ForSequenceClassification            labels: `sentiment`, `stars`, `label`, or `labels` if they aren't exclusive
    …ForTokenClassification               `spans`
    …Model, …ForMaskedLM, …ForPreTraining `embedding`, pooled as sentence-transformers' own files beside it say

Without such files an embedding is the plain mean. Given up: embeddings that go through further layers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from models.architecture import Pooling
from models.bundle import BundleError
from models.heads import SENTIMENT, SENTIMENT_LABELS, HeadSpec

CONFIG_FILE = "config.json"
MODULES_FILE = "modules.json"
SENTENCE_FILE = "sentence_bert_config.json"
_OF_TEXTS = "ForSequenceClassification"
_OF_TOKENS = "ForTokenClassification"
_ENCODERS = ("Model", "ForMaskedLM", "ForPreTraining")
_SYNONYMS = {"neg": "negative", "neu": "neutral", "pos": "positive"}
_STARS = re.compile(r"^([1-9]|10) ?(?:stars?)?$", re.IGNORECASE)
_OWN_POOLER = ("roberta", "xlm-roberta")  # their classifiers have a dense layer of their own instead of a pooler
_POOLINGS: dict[str, Pooling] = {
    "mean": "mean",
    "pooling_mode_mean_tokens": "mean",
    "cls": "first",
    "pooling_mode_cls_token": "first",
}


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check `config.json`.

    Raises
    ------
    BundleError : code of its own, a task or a number of positions that can't be scored with.
    """
    config: dict[str, Any] = _read_json(folder / CONFIG_FILE)
    if "auto_map" in config:
        raise BundleError(f"{folder} brings its own code (auto_map in {CONFIG_FILE}), which is never run")
    named = _named(config)
    if not named.endswith((_OF_TEXTS, _OF_TOKENS, *_ENCODERS)):
        known = ", ".join(f"…{ending}" for ending in (_OF_TEXTS, _OF_TOKENS, *_ENCODERS))
        raise BundleError(f"{folder} is a {named}; a bundle is made of one of {known}")
    if named.endswith(_ENCODERS) and config.get("is_encoder_decoder"):
        raise BundleError(f"{folder} is a {named} with a decoder; embeddings are read off encoders")
    if named.endswith(_OF_TEXTS) and config.get("problem_type") == "regression":
        raise BundleError(f"{folder}: problem_type regression isn't known; classifiers are")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise BundleError(
            f"{folder}: position_embedding_type must be absolute, got {config['position_embedding_type']}"
        )
    if "max_position_embeddings" not in config:
        raise BundleError(f"{folder / CONFIG_FILE} lacks max_position_embeddings, so the length limit is unknown")
    return config


def read_head(folder: Path, config: dict[str, Any]) -> HeadSpec:
    """The checkpoint's one head."""
    if _named(config).endswith(_OF_TEXTS):
        return _classes(_labels(folder, config), config)
    if _named(config).endswith(_OF_TOKENS):
        return HeadSpec(name="spans", kind="token", labels=_labels(folder, config))
    return _embedding(folder, int(config["hidden_size"]))


def sentence_limit(folder: Path) -> int | None:
    """The most tokens that sentence-transformers would read; None if it isn't said."""
    path = folder / SENTENCE_FILE
    limit = _read_json(path).get("max_seq_length") if path.exists() else None
    return None if limit is None else int(limit)


def _named(config: dict[str, Any]) -> str:
    return str((config.get("architectures") or ["none"])[0])


def _labels(folder: Path, config: dict[str, Any]) -> tuple[str, ...]:
    names = config.get("id2label") or {}
    labels = tuple(str(names[key]) for key in sorted(names, key=int))
    if len(labels) < 2:
        raise BundleError(f"{folder / CONFIG_FILE}: id2label must give at least two labels, got {list(labels)}")
    return labels


def _classes(labels: tuple[str, ...], config: dict[str, Any]) -> HeadSpec:
    pooling: Pooling = "first" if config["model_type"] in _OWN_POOLER else "pooler"
    if config.get("problem_type") == "multi_label_classification":
        return HeadSpec(name="labels", kind="multi", labels=labels, pooling=pooling)
    plain = tuple(_SYNONYMS.get(label.lower(), label.lower()) for label in labels)
    if set(plain) <= set(SENTIMENT_LABELS):
        return HeadSpec(name=SENTIMENT, labels=plain, pooling=pooling)
    if all(grades := [_STARS.match(label) for label in labels]):
        numbers = tuple(grade[1] for grade in grades if grade)
        return HeadSpec(name="stars", kind="ordinal", labels=numbers, pooling=pooling)
    return HeadSpec(name="label", labels=labels, pooling=pooling)


def _embedding(folder: Path, size: int) -> HeadSpec:
    if not (folder / MODULES_FILE).exists():
        return HeadSpec(name="embedding", kind="embedding", size=size, pooling="mean")
    modules = {module["type"].rpartition(".")[2]: module["path"] for module in _read_json(folder / MODULES_FILE)}
    if strange := modules.keys() - {"Transformer", "Pooling", "Normalize"}:
        raise BundleError(f"{folder / MODULES_FILE}: modules must be Transformer, Pooling and Normalize, got {strange}")
    pooling = _pooling(folder / modules["Pooling"] / CONFIG_FILE) if "Pooling" in modules else "mean"
    return HeadSpec(name="embedding", kind="embedding", size=size, pooling=pooling, normalise="Normalize" in modules)


def _pooling(path: Path) -> Pooling:
    """One of the two ways of `pooling_mode`, or of the booleans `pooling_mode_*` of files before version 6."""
    config = _read_json(path)
    named = config.get("pooling_mode") or [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
    modes = [named] if isinstance(named, str) else named
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise BundleError(f"{path}: pooling must be the mean or the first token alone, got {modes}")
    return _POOLINGS[modes[0]]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} can't be read: {error}") from error
