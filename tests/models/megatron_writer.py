"""Checkpoints in Megatron-LM's own layouts, written from a transformers model whose weights are known.

The inverse of what is tested, written apart from it: layouts after Megatron-LM's checkpointing.py (2019 to 2023),
Megatron-Core's state dictionaries and its torch_dist folders.
"""

from __future__ import annotations

import argparse
import os
import random
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertModel, GPT2LMHeadModel, MegatronBertModel

MULTIPLE = 16  # make_vocab_size_divisible_by


@dataclass(frozen=True)
class Style:
    """How a checkpoint is laid out."""

    version: float | None = 3.0
    num_ranks: int = 1
    num_stages: int = 1
    era: str = "encoder"  # transformer (2019), encoder (2021), core, core-te
    with_args: bool = True


@dataclass
class Source:
    """A model's tensors, each layer's query, key and value apart, in torch's (out, in) order."""

    family: str
    top: dict[str, torch.Tensor]
    layers: list[dict[str, torch.Tensor]]
    num_heads: int
    is_post_norm: bool = False

    @property
    def hidden(self) -> int:
        return self.top["words"].shape[1]


def bert_source(model: MegatronBertModel) -> Source:
    state = model.state_dict()
    parts = {
        "ln1": "attention.ln",
        "q": "attention.self.query",
        "k": "attention.self.key",
        "v": "attention.self.value",
        "out": "attention.output.dense",
        "ln2": "ln",
        "up": "intermediate.dense",
        "down": "output.dense",
    }
    return Source(
        family="bert",
        top={
            "words": state["embeddings.word_embeddings.weight"],
            "positions": state["embeddings.position_embeddings.weight"],
            "types": state["embeddings.token_type_embeddings.weight"],
            "norm.weight": state["encoder.ln.weight"],
            "norm.bias": state["encoder.ln.bias"],
            "pooler.weight": state["pooler.dense.weight"],
            "pooler.bias": state["pooler.dense.bias"],
        },
        layers=[
            {
                f"{ours}.{p}": state[f"encoder.layer.{i}.{theirs}.{p}"]
                for ours, theirs in parts.items()
                for p in ("weight", "bias")
            }
            for i in range(model.config.num_hidden_layers)
        ],
        num_heads=model.config.num_attention_heads,
    )


def post_norm_source(model: BertModel) -> Source:
    """As `--apply-residual-connection-post-layernorm` trains it: each norm of a BERT stands before the next block."""
    state = model.state_dict()
    depth = model.config.num_hidden_layers
    after_feed_forward = [f"encoder.layer.{i}.output.LayerNorm" for i in range(depth)]
    before_attention = ["embeddings.LayerNorm", *after_feed_forward]
    parts = {
        "q": "attention.self.query",
        "k": "attention.self.key",
        "v": "attention.self.value",
        "out": "attention.output.dense",
        "ln2": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
    }
    top = {"words": "word_embeddings", "positions": "position_embeddings", "types": "token_type_embeddings"}
    return Source(
        family="bert",
        top={
            **{ours: state[f"embeddings.{theirs}.weight"] for ours, theirs in top.items()},
            **{f"norm.{p}": state[f"{before_attention[depth]}.{p}"] for p in ("weight", "bias")},
            **{f"pooler.{p}": state[f"pooler.dense.{p}"] for p in ("weight", "bias")},
        },
        layers=[
            {
                **{f"ln1.{p}": state[f"{before_attention[i]}.{p}"] for p in ("weight", "bias")},
                **{
                    f"{o}.{p}": state[f"encoder.layer.{i}.{t}.{p}"]
                    for o, t in parts.items()
                    for p in ("weight", "bias")
                },
            }
            for i in range(depth)
        ],
        num_heads=model.config.num_attention_heads,
        is_post_norm=True,
    )


def gpt_source(model: GPT2LMHeadModel) -> Source:
    state = model.state_dict()
    layers = []
    for i in range(model.config.n_layer):
        layer = {
            k.removeprefix(f"transformer.h.{i}."): v for k, v in state.items() if k.startswith(f"transformer.h.{i}.")
        }
        q, k, v = layer["attn.c_attn.weight"].T.chunk(3)
        qb, kb, vb = layer["attn.c_attn.bias"].chunk(3)
        layers.append(
            {
                **{"q.weight": q, "k.weight": k, "v.weight": v, "q.bias": qb, "k.bias": kb, "v.bias": vb},
                **{
                    f"{o}.{p}": layer[f"{t}.{p}"]
                    for o, t in (("ln1", "ln_1"), ("ln2", "ln_2"))
                    for p in ("weight", "bias")
                },
                **{
                    f"{o}.weight": layer[f"{t}.weight"].T
                    for o, t in (("out", "attn.c_proj"), ("up", "mlp.c_fc"), ("down", "mlp.c_proj"))
                },
                **{
                    f"{o}.bias": layer[f"{t}.bias"]
                    for o, t in (("out", "attn.c_proj"), ("up", "mlp.c_fc"), ("down", "mlp.c_proj"))
                },
            }
        )
    top = {
        "words": state["transformer.wte.weight"],
        "positions": state["transformer.wpe.weight"],
        "norm.weight": state["transformer.ln_f.weight"],
        "norm.bias": state["transformer.ln_f.bias"],
    }
    return Source("gpt", top, layers, model.config.n_head)


def write_megatron(source: Source, folder: Path, style: Style) -> Path:
    """Write `latest_checkpointed_iteration.txt` and all shards; give the folder."""
    folder.mkdir(parents=True)
    (folder / "latest_checkpointed_iteration.txt").write_text("7")
    for rank in range(style.num_ranks):
        for stage in range(style.num_stages):
            suffix = f"_{stage:03d}" if style.num_stages > 1 else ""
            shard = folder / "iter_0000007" / f"mp_rank_{rank:02d}{suffix}"
            shard.mkdir(parents=True)
            torch.save(rank_state(source, style, rank, stage), shard / "model_optim_rng.pt")
    return folder


def rank_state(source: Source, style: Style, rank: int, stage: int = 0) -> dict[str, Any]:
    model = (_core if style.era.startswith("core") else _legacy)(source, style, rank, stage)
    state: dict[str, Any] = {
        "iteration": 7,
        "model": model,
        "optimizer": {"state": {0: torch.ones(3)}},
        "rng_state": [{"np_rng_state": np.random.get_state(), "random_rng_state": random.getstate()}],
    }
    if style.version is not None:
        state["checkpoint_version"] = style.version
    if style.with_args:
        state["args"] = arguments(source, style)
    return state


def arguments(source: Source, style: Style) -> argparse.Namespace:
    return argparse.Namespace(
        num_layers=len(source.layers),
        hidden_size=source.hidden,
        num_attention_heads=source.num_heads,
        ffn_hidden_size=source.layers[0]["up.weight"].shape[0],
        max_position_embeddings=source.top["positions"].shape[0],
        padded_vocab_size=len(_padded(source, style)),
        make_vocab_size_divisible_by=MULTIPLE,
        tensor_model_parallel_size=style.num_ranks,
        pipeline_model_parallel_size=style.num_stages,
        layernorm_epsilon=1e-5,
        tokenizer_type="BertWordPieceLowerCase" if source.family == "bert" else "GPT2BPETokenizer",
        bias_gelu_fusion=source.family == "gpt",
        params_dtype=torch.float32,
        apply_residual_connection_post_layernorm=source.is_post_norm,
    )


def _padded(source: Source, style: Style) -> torch.Tensor:
    words = source.top["words"]
    missing = -len(words) % (MULTIPLE * style.num_ranks)
    return torch.cat([words, torch.full((missing, words.shape[1]), 9.0)])


def fused(layer: dict[str, torch.Tensor], part: str, source: Source, style: Style, rank: int) -> torch.Tensor:
    """Fuse query, key and value of this rank's heads, in the version's order."""
    heads, size = source.num_heads, source.hidden // source.num_heads
    here = slice(rank * heads // style.num_ranks, (rank + 1) * heads // style.num_ranks)
    per_head = [layer[f"{x}.{part}"].reshape(heads, size, -1)[here] for x in "qkv"]  # each (heads here, size, in)
    version = style.version or 0.0
    axis = {0.0: 0, 1.0: 2}.get(version, 1)
    stacked = torch.stack(per_head, dim=axis)
    return stacked.reshape(-1, stacked.shape[-1]) if part == "weight" else stacked.reshape(-1)


def _rows(tensor: torch.Tensor, style: Style, rank: int) -> torch.Tensor:
    return tensor.chunk(style.num_ranks, 0)[rank].clone()


def _columns(tensor: torch.Tensor, style: Style, rank: int) -> torch.Tensor:
    return tensor.chunk(style.num_ranks, 1)[rank].clone()


def _stage_layers(source: Source, style: Style, stage: int) -> list[dict[str, torch.Tensor]]:
    per_stage = len(source.layers) // style.num_stages
    return source.layers[stage * per_stage : (stage + 1) * per_stage]


def _layer(layer: dict[str, torch.Tensor], source: Source, style: Style, rank: int) -> dict[str, torch.Tensor]:
    """Give a layer's shard under neutral names."""
    return {
        **{f"{ln}.{p}": layer[f"{ln}.{p}"] for ln in ("ln1", "ln2") for p in ("weight", "bias")},
        **{f"qkv.{p}": fused(layer, p, source, style, rank) for p in ("weight", "bias")},
        "out.weight": _columns(layer["out.weight"], style, rank),
        "out.bias": layer["out.bias"],
        "up.weight": _rows(layer["up.weight"], style, rank),
        "up.bias": _rows(layer["up.bias"], style, rank),
        "down.weight": _columns(layer["down.weight"], style, rank),
        "down.bias": layer["down.bias"],
    }


def _legacy(source: Source, style: Style, rank: int, stage: int) -> dict[str, Any]:
    attention = "attention" if style.era == "transformer" else "self_attention"
    names = {
        "ln1": "input_layernorm",
        "qkv": f"{attention}.query_key_value",
        "out": f"{attention}.dense",
        "ln2": "post_attention_layernorm",
        "up": "mlp.dense_h_to_4h",
        "down": "mlp.dense_4h_to_h",
    }
    encoder: dict[str, torch.Tensor] = {}
    for i, layer in enumerate(_stage_layers(source, style, stage)):
        for name, tensor in _layer(layer, source, style, rank).items():
            stem, _, part = name.rpartition(".")
            encoder[f"layers.{i}.{names[stem]}.{part}"] = tensor
    language: dict[str, Any] = {style.era: encoder}
    model: dict[str, Any] = {"language_model": language}
    words = _rows(_padded(source, style), style, rank)
    if stage == 0:
        language["embedding"] = {
            "word_embeddings": {"weight": words},
            "position_embeddings": {"weight": source.top["positions"]},
        }
        if source.family == "bert":
            language["embedding"]["tokentype_embeddings"] = {"weight": source.top["types"]}
    if stage == style.num_stages - 1:
        encoder["final_layernorm.weight"], encoder["final_layernorm.bias"] = (
            source.top["norm.weight"],
            source.top["norm.bias"],
        )
        if stage:
            model["word_embeddings_for_head"] = {"weight": words}
        if source.family == "bert":
            language["pooler"] = {f"dense.{p}": source.top[f"pooler.{p}"] for p in ("weight", "bias")}
            model["lm_head"] = {
                "dense.weight": torch.ones(3, 3),
                "layernorm.weight": torch.ones(3),
                "bias": torch.ones(len(words)),
            }
            model["binary_head"] = {"weight": torch.ones(2, source.hidden), "bias": torch.ones(2)}
    return model


def _core(source: Source, style: Style, rank: int, stage: int) -> dict[str, torch.Tensor]:
    block = "encoder" if source.family == "bert" else "decoder"
    is_te = style.era == "core-te"
    names = {
        "ln1": "self_attention.linear_qkv.layer_norm_" if is_te else "input_layernorm.",
        "qkv": "self_attention.linear_qkv.",
        "out": "self_attention.linear_proj.",
        "ln2": "mlp.linear_fc1.layer_norm_" if is_te else "pre_mlp_layernorm.",
        "up": "mlp.linear_fc1.",
        "down": "mlp.linear_fc2.",
    }
    model: dict[str, torch.Tensor] = {}
    for i, layer in enumerate(_stage_layers(source, style, stage)):
        for name, tensor in _layer(layer, source, style, rank).items():
            stem, _, part = name.rpartition(".")
            model[f"{block}.layers.{i}.{names[stem]}{part}"] = tensor
        if is_te:
            model[f"{block}.layers.{i}.self_attention.linear_qkv._extra_state"] = torch.zeros(0, dtype=torch.uint8)
    words = _rows(_padded(source, style), style, rank)
    if stage == 0:
        model |= {
            "embedding.word_embeddings.weight": words,
            "embedding.position_embeddings.weight": source.top["positions"],
        }
        if source.family == "bert":
            model["embedding.tokentype_embeddings.weight"] = source.top["types"]
    if stage == style.num_stages - 1:
        model |= {f"{block}.final_layernorm.{p}": source.top[f"norm.{p}"] for p in ("weight", "bias")}
        if source.family == "bert":
            model |= {f"pooler.dense.{p}": source.top[f"pooler.{p}"] for p in ("weight", "bias")}
            model |= {"lm_head.dense.weight": torch.ones(3, 3), "output_layer.bias": torch.ones(len(words))}
            model |= {"binary_head.weight": torch.ones(2, source.hidden)}
    return model


def write_distributed(source: Source, folder: Path) -> Path:
    """Write a torch_dist folder: layers stacked along a leading axis, arguments in common.pt."""
    import torch.distributed.checkpoint as dcp  # noqa: PLC0415 - slow to import

    style = Style(era="core-te")
    flat = _core(source, style, 0, 0)
    stacked: dict[str, torch.Tensor] = {}
    marker = ".layers.0."
    for name, tensor in flat.items():
        if marker in name:
            per_layer = [flat[name.replace(marker, f".layers.{i}.")] for i in range(len(source.layers))]
            stacked[name.replace(marker, ".layers.")] = torch.stack(per_layer)
        elif ".layers." not in name:
            stacked[name] = tensor
    stacked["optimizer.state.exp_avg.embedding.word_embeddings.weight"] = torch.ones(2)
    iteration = folder / "iter_0000007"
    iteration.mkdir(parents=True)
    with warnings.catch_warnings(action="ignore"):  # it says that one process saves, which is the point
        dcp.save(stacked, storage_writer=dcp.FileSystemWriter(iteration), no_dist=True)
    common = {"args": arguments(source, style), "checkpoint_version": 3.0, "iteration": 7}
    torch.save(common, iteration / "common.pt")
    (folder / "latest_checkpointed_iteration.txt").write_text("7")
    return folder


class Code:
    """Pickled code: unpickling it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.mark,)
