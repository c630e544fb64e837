"""A bundle as a Hugging Face folder of one head: what transformers' `AutoModelForSequenceClassification` loads.

transformers knows one head a folder, so one is chosen; logits are the bundle's own. Given up: calibration (the head's
temperature stands in the README only, for transformers has no place for it), and the packed pass.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tokenizers import Tokenizer

from models.architecture import Architecture
from models.bundle import CARD_FILE, TOKENIZER_FILE, WEIGHTS_FILE, Bundle
from models.checkpoint import CONFIG_FILE
from models.convert.errors import ConversionError
from models.convert.folders import bert_config, write_folder, write_tokenizer
from models.heads import HeadSpec
from models.weights import trunk_tensors

_CLASSES = {"megatron-bert": "MegatronBertForSequenceClassification", "bert": "BertForSequenceClassification"}
_KINDS = ("single", "ordinal")


def export_huggingface(bundle: Bundle, folder: Path, head_name: str | None) -> HeadSpec:
    """Write the folder; give the head that went into it.

    Raises
    ------
    ConversionError : no such head, one that isn't a text classifier, or a family transformers would run otherwise.
    """
    head = _choose(bundle, head_name)
    arch = bundle.spec.architecture
    if not isinstance(arch, Architecture):
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copyfile(bundle.folder / name, folder / name)
    else:
        _write_bert(bundle, arch, head, folder)
    write_tokenizer(folder, Tokenizer.from_file(str(bundle.folder / TOKENIZER_FILE)), bundle.spec.max_length)
    card = (
        f"# {bundle.spec.name}, head {head.name}\n\nExported from the bundle `{bundle}`. Its probabilities are "
        f"softmax(logits / {head.temperature:g}): divide the logits by that temperature.\n"
    )
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    return head


def _choose(bundle: Bundle, name: str | None) -> HeadSpec:
    exportable = {head.name: head for head in bundle.spec.heads if head.kind in _KINDS}
    if name is None and len(exportable) == 1:
        return next(iter(exportable.values()))
    if name is None or name not in exportable:
        raise ConversionError(f"bundle {bundle}: --head must be one of {sorted(exportable)}, got {name}")
    return exportable[name]


def _write_bert(bundle: Bundle, arch: Architecture, head: HeadSpec, folder: Path) -> None:
    if arch.family not in _CLASSES or head.pooling != "pooler":
        raise ConversionError(
            f"bundle {bundle}, head {head.name}: a {arch.family} that reads {head.pooling} isn't exported to a Hugging "
            f"Face folder; heads on the pooler of {' and '.join(_CLASSES)} are"
        )
    tensors = bundle.tensors()
    labels = list(head.labels)
    config = bert_config(
        arch,
        _CLASSES[arch.family],
        id2label={str(index): label for index, label in enumerate(labels)},
        label2id={label: index for index, label in enumerate(labels)},
    )
    linear = {f"classifier.{part}": tensors[f"heads.{head.name}.{part}"] for part in ("weight", "bias")}
    whole = {name: tensor.float() for name, tensor in (trunk_tensors(arch, tensors) | linear).items()}
    write_folder(folder, config, whole)
