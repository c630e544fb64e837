"""Small source models and tokenisers for the tests of conversion."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, MegatronBertConfig, MegatronBertModel

NUM_WORDS = 101
MAX_LENGTH = 40
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def shake(model: torch.nn.Module) -> None:
    """Give every bias and norm its own numbers, so that a mix-up shows."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            is_norm = "ln" in name or "LayerNorm" in name
            torch.nn.init.normal_(parameter, mean=float(is_norm and "weight" in name), std=0.1)


def bert_model(num_heads: int = 4) -> MegatronBertModel:
    torch.manual_seed(0)
    config = MegatronBertConfig(
        vocab_size=NUM_WORDS,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=num_heads,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.3,
        layer_norm_eps=1e-5,
    )
    model = MegatronBertModel(config).eval()
    shake(model)
    return model


def post_norm_model() -> BertModel:
    torch.manual_seed(2)
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(
        vocab_size=NUM_WORDS, max_position_embeddings=MAX_LENGTH, initializer_range=0.3, layer_norm_eps=1e-5, **sizes
    )
    model = BertModel(config).eval()
    shake(model)
    return model


def gpt_model() -> GPT2LMHeadModel:
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=NUM_WORDS,
        n_positions=MAX_LENGTH,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_inner=64,
        initializer_range=0.3,
        activation_function="gelu_new",
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).eval()
    shake(model)
    return model


def write_vocab(path: Path, num_words: int = NUM_WORDS) -> Path:
    """Write BERT's vocab.txt: special tokens, letters, and made-up words."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*SPECIAL, *letters, *(f"word{index}" for index in range(num_words))]
    path.write_text("".join(f"{word}\n" for word in words[:num_words]), encoding="utf-8")
    return path


def write_bytes_vocab(folder: Path) -> tuple[Path, Path]:
    """Write GPT's vocab.json and merges.txt, of no merges."""
    words = ["<|endoftext|>", *(chr(code) for code in range(33, 33 + NUM_WORDS - 1))]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder / "vocab.json", folder / "merges.txt"
