"""A Megatron-LM checkpoint, of any layout that is read here, as one set of whole tensors under our trunk's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from models.convert.distributed import load_distributed
from models.convert.errors import ConversionError
from models.convert.layout import METADATA_FILE, find_shards, iteration_folder
from models.convert.merge import merge
from models.convert.names import num_layers, trunk_name
from models.convert.postnorm import POST_NORM, to_postnorm
from models.convert.shard import Shard, load_shard
from models.convert.sizes import Family, Sizes, read_sizes

_BEFORE_CORE = "post_attention_layernorm"  # so named before Megatron-Core, of whose own residuals nothing is known here
_BERT_MARKS = {"token_type_embeddings.weight", "pooler.weight"}
_NUM_SHOWN = 8  # of dropped tensors: Transformer Engine has several in every layer
_SAVED_COUNTS = {  # what the arguments call the number of ranks and of stages, the newest name first
    "tensor-parallel": ("tensor_model_parallel_size", "model_parallel_size"),
    "pipeline-parallel": ("pipeline_model_parallel_size",),
}


@dataclass(frozen=True)
class Checkpoint:
    """What was found. Word embeddings still have their padding rows: a tokeniser says how many words are real."""

    sizes: Sizes
    version: float
    layout: str
    tokenizer_type: str | None
    tensors: dict[str, torch.Tensor]
    dropped: tuple[str, ...]

    def summary(self) -> list[str]:
        """Lines that say what was found."""
        arch = self.sizes.arch
        return [
            f"family {self.sizes.family}, {'pre' if arch.norm_first else 'post'}-LN, {arch.num_hidden_layers} layers, "
            f"hidden size {arch.hidden_size}, "
            f"{arch.num_attention_heads} heads, {arch.max_position_embeddings} positions, {arch.vocab_size} word rows",
            f"{self.layout}, checkpoint_version {self.version}",
            self._dropped_line(),
        ]

    def _dropped_line(self) -> str:
        shown = [*self.dropped[:_NUM_SHOWN], *(["…"] if len(self.dropped) > _NUM_SHOWN else [])]
        return f"dropped {len(self.dropped)} tensors of training: {', '.join(shown) or 'none'}"


def read_megatron(path: Path, num_heads: int | None = None) -> Checkpoint:
    """Read a BERT or GPT.

    Raises
    ------
    ConversionError : whatever is missing, damaged, unknown or doesn't fit; the message names it.
    """
    with iteration_folder(path) as folder:
        if (folder / METADATA_FILE).is_file():
            return _whole([[load_distributed(folder)]], num_heads, "distributed checkpoint")
        files = find_shards(folder)
        num_ranks, num_stages = (max(keys) + 1 for keys in zip(*files, strict=True))
        stages = [[load_shard(files[rank, stage]) for rank in range(num_ranks)] for stage in range(num_stages)]
    _check_counts(stages)
    layout = f"{num_ranks} tensor-parallel x {num_stages} pipeline-parallel shards"
    return _whole(stages, num_heads, layout)


def _whole(stages: Sequence[Sequence[Shard]], num_heads: int | None, layout: str) -> Checkpoint:
    first = stages[0][0]
    origins: dict[str, str] = {}
    dropped: dict[str, None] = {}
    ranks = [_across_stages(stages, rank, origins, dropped) for rank in range(len(stages[0]))]
    family: Family = "bert" if _BERT_MARKS & origins.keys() else "gpt"
    seen = _seen_sizes(ranks, stages)
    sizes = read_sizes(family, first.arguments, seen, num_heads, len(ranks))
    tensors = merge(sizes, first.version, ranks, origins)
    if first.arguments.get(POST_NORM):
        _check_post_norm(family, origins)
        tensors = to_postnorm(tensors, sizes.arch.num_hidden_layers)
        sizes = replace(sizes, arch=sizes.arch.model_copy(update={"family": "bert"}))
    return Checkpoint(
        sizes=sizes,
        version=first.version,
        layout=layout,
        tokenizer_type=first.arguments.get("tokenizer_type"),
        tensors=tensors,
        dropped=tuple(dropped),
    )


def _check_post_norm(family: Family, origins: Mapping[str, str]) -> None:
    if family != "bert" or not any(_BEFORE_CORE in name for name in origins.values()):
        raise ConversionError(f"the checkpoint was trained with {POST_NORM}; known of a BERT from before Megatron-Core")


def _across_stages(
    stages: Sequence[Sequence[Shard]], rank: int, origins: dict[str, str], dropped: dict[str, None]
) -> dict[str, torch.Tensor]:
    """Give one rank's tensors of all stages by trunk name; what they were called goes to `origins`."""
    tensors: dict[str, torch.Tensor] = {}
    layers_before = 0
    for stage in stages:
        for name, tensor in stage[rank].tensors.items():
            ours = trunk_name(name, layers_before)
            if ours is None:
                dropped[name] = None
            else:
                tensors[ours], origins[ours] = tensor, name
        layers_before += num_layers(stage[rank].tensors)
    return tensors


def _seen_sizes(ranks: Sequence[Mapping[str, torch.Tensor]], stages: Sequence[Sequence[Shard]]) -> dict[str, int]:
    words, positions, up = (
        _required(ranks[0], name)
        for name in ("word_embeddings.weight", "position_embeddings.weight", "layers.0.up.weight")
    )
    return {
        "padded_vocab_size": words.shape[0] * len(ranks),
        "hidden_size": words.shape[-1],
        "num_layers": sum(num_layers(stage[0].tensors) for stage in stages),
        "ffn_hidden_size": up.shape[0] * len(ranks),
        "max_position_embeddings": positions.shape[0],
    }


def _required(tensors: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in tensors:
        raise ConversionError(f"mp_rank_00 lacks the tensor {name} (named as in our trunk)")
    return tensors[name]


def _check_counts(stages: Sequence[Sequence[Shard]]) -> None:
    """Shards must be as many as the run had, and of one moment of one run."""
    first = stages[0][0]
    for kind, found in (("tensor-parallel", len(stages[0])), ("pipeline-parallel", len(stages))):
        saved = next((first.arguments[name] for name in _SAVED_COUNTS[kind] if name in first.arguments), found)
        if saved != found:
            raise ConversionError(f"the checkpoint was trained with {saved} {kind} shards, found {found}")
    for shard in (shard for stage in stages for shard in stage):
        if (shard.version, shard.iteration) != (first.version, first.iteration):
            raise ConversionError(
                f"{shard.label} is of version {shard.version}, iteration {shard.iteration}, but {first.label} is of "
                f"version {first.version}, iteration {first.iteration}"
            )
