"""Hugging Face folders, written from whole tensors under our trunk's names: config, safetensors, tokeniser.

Configs are plain dictionaries of transformers' own keys, so nothing here imports transformers. Weights keep the
precision they come in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from models.architecture import Architecture
from models.convert.vocabulary import END_OF_TEXT
from models.trunk import Trunk
from models.weights import to_transformers

_TORCH_PREFIX = "torch."
_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_GPT_LAYER = {  # ours to GPT-2's; its matrices stand the other way round
    "attention_norm": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.output": "attn.c_proj",
    "feed_forward_norm": "ln_2",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}
_GPT_TOP = {"word_embeddings": "wte", "position_embeddings": "wpe", "norm": "ln_f"}


def write_bert(arch: Architecture, tensors: Mapping[str, torch.Tensor], tokenizer: Tokenizer, folder: Path) -> None:
    """Write a `MegatronBertModel`, or a `BertModel` where the norms stand after the blocks: the trunk without heads."""
    with torch.device("meta"):
        trunk = Trunk(arch)
    trunk.load_state_dict(dict(tensors), assign=True)
    model = "MegatronBertModel" if arch.norm_first else "BertModel"
    config = bert_config(arch, model, pad_token_id=tokenizer.token_to_id(_SPECIAL["pad_token"]) or 0)
    write_folder(folder, config, to_transformers(trunk))
    write_tokenizer(folder, tokenizer, arch.max_position_embeddings)


def bert_config(arch: Architecture, model: str, **more: object) -> dict[str, Any]:
    """`config.json` of a Megatron-BERT or a BERT."""
    sizes = arch.model_dump(exclude={"family"})
    return {"architectures": [model], "model_type": arch.family, "hidden_act": "gelu", **sizes, **more}


def write_gpt(
    arch: Architecture, tensors: Mapping[str, torch.Tensor], tokenizer: Tokenizer, folder: Path, tanh_gelu: bool
) -> None:
    """Write a `GPT2LMHeadModel`, which Megatron-LM's GPT is but for names; its output weights are the embeddings."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new" if tanh_gelu else "gelu",
        "vocab_size": arch.vocab_size,
        "n_positions": arch.max_position_embeddings,
        "n_embd": arch.hidden_size,
        "n_layer": arch.num_hidden_layers,
        "n_head": arch.num_attention_heads,
        "n_inner": arch.intermediate_size,
        "layer_norm_epsilon": arch.layer_norm_eps,
        "bos_token_id": end,
        "eos_token_id": end,
        "tie_word_embeddings": True,
    }
    write_folder(folder, config, {_gpt_name(name): _gpt_matrix(name, tensor) for name, tensor in tensors.items()})
    write_tokenizer(folder, tokenizer, arch.max_position_embeddings)


def write_folder(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write `config.json` and `model.safetensors`."""
    dtype = str(next(iter(tensors.values())).dtype).removeprefix(_TORCH_PREFIX)
    _write_json(folder / "config.json", {**config, "dtype": dtype})
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})


def write_tokenizer(folder: Path, tokenizer: Tokenizer, max_length: int) -> None:
    """Write `tokenizer.json` and what transformers needs beside it."""
    named = {role: token for role, token in _SPECIAL.items() if tokenizer.token_to_id(token) is not None}
    if tokenizer.token_to_id(END_OF_TEXT) is not None:
        named |= dict.fromkeys(("bos_token", "eos_token"), END_OF_TEXT)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length, **named}
    _write_json(folder / "tokenizer_config.json", config)


def _gpt_name(name: str) -> str:
    stem, _, part = name.rpartition(".")
    if stem in _GPT_TOP:
        return f"transformer.{_GPT_TOP[stem]}.{part}"
    _, index, inner = stem.split(".", 2)
    return f"transformer.h.{index}.{_GPT_LAYER[inner]}.{part}"


def _gpt_matrix(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.T if name.startswith("layers.") and tensor.ndim == 2 else tensor


def _write_json(path: Path, plain: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(plain, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
