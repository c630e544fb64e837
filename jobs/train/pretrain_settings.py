"""Settings of a pretraining: what stands in its YAML. `jobs/train/pretrain.yaml` holds every default.

The least is `data` and `output`. Whatever decides the weights is part of the recipe that each checkpoint carries; how
the work is spread (workers, sharding, device) and how often it speaks and saves is not.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import Settings
from models.architecture import Architecture

Family = Literal["megatron-bert", "bert", "roberta", "xlm-roberta", "gpt"]
GPT = "gpt"
_GPT_EPS, _BERT_EPS = 1e-5, 1e-12  # Megatron's GPT; transformers' default of the encoders
_RATES = {"muon": 0.003, "adamw": 0.0005}
FREE_OF_PARENT = {"max_length", "dropout"}  # of the architecture, what a run may choose that goes on from a bundle


class PretrainError(ValueError):
    """Settings, data or a checkpoint that can't be used; the message names them and what would be right."""


class SplitSettings(Settings):
    """Which rows are read: those whose `column` holds `value`."""

    column: str = Field(default="split", min_length=1)
    value: str = "train"


class SourceSettings(Settings):
    """One source of text."""

    input: str = Field(min_length=1, description="a file, folder or glob; local or in a store")
    text: str = Field(default="text", min_length=1, description="column of the text; plain text files have none")
    format: Literal["auto", "parquet", "jsonl", "csv", "text"] = "auto"
    split: SplitSettings | None = Field(default=None, description="None: every row is read")
    weight: float = Field(
        default=1.0, gt=0, description="how often an epoch reads it: 2.0 twice, 0.25 a random quarter"
    )


class TokenizerSettings(Settings):
    """An existing `tokenizer.json` (or a folder or bundle that has one), else a WordPiece vocabulary learnt here."""

    use: str | None = Field(default=None, min_length=1)
    vocab_size: int = Field(default=16_000, ge=64)
    max_texts: int = Field(default=1_000_000, ge=1, description="read to learn the vocabulary, evenly over the files")


class ArchitectureSettings(Settings):
    """The shape; the vocabulary's size is the tokenizer's."""

    family: Family = "megatron-bert"
    hidden_size: int = Field(default=256, ge=8)
    num_hidden_layers: int = Field(default=4, ge=1)
    num_attention_heads: int = Field(default=4, ge=1)
    intermediate_size: int | None = Field(default=None, ge=8, description="None: four times hidden_size")
    max_length: int = Field(default=256, ge=8, description="tokens a text; longer ones are cut into several")
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def build(self, vocab_size: int, pad_token_id: int) -> Architecture:
        """The architecture over a vocabulary; a GPT has the shape of an encoder without token types."""
        family = "megatron-bert" if self.family == "gpt" else self.family
        is_roberta = family in ("roberta", "xlm-roberta")
        return Architecture(
            family=family,
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=self.intermediate_size or 4 * self.hidden_size,
            max_position_embeddings=self.max_length + (pad_token_id + 1 if is_roberta else 0),
            layer_norm_eps=_GPT_EPS if self.family == GPT else _BERT_EPS,
            pad_token_id=pad_token_id,
        )


class ObjectiveSettings(Settings):
    """What is learnt: hidden words (mlm), with the order of two segments or without, or next words (clm)."""

    kind: Literal["mlm", "clm"] = "mlm"
    sentence_order: bool = False
    mask_rate: float = Field(default=0.3, gt=0, lt=1, description="share of tokens hidden, whole words together")
    chinese_words: Literal["auto", "jieba", "chance"] = "auto"


class ScheduleSettings(Settings):
    """How it is learnt; the rates are the highest ones."""

    epochs: int = Field(default=1, ge=1)
    max_steps: int | None = Field(default=None, ge=1, description="ends there, and the rate falls to 0 there")
    batch_tokens: int = Field(default=8192, ge=16, description="of one step over all workers")
    accumulate: int = Field(default=1, ge=1, description="forward passes of a worker in one step")
    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: float | None = Field(default=None, gt=0, description="None: 0.003 beside Muon, else 0.0005")
    matrix_learning_rate: float = Field(default=0.02, gt=0, description="of the layers' matrices, under Muon")
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: float = Field(default=0.06, ge=0, lt=1, description="share of all steps")
    clip: float = Field(default=1.0, gt=0, description="largest norm of the gradient")

    @property
    def rate(self) -> float:
        """The highest rate of what Muon doesn't train."""
        return self.learning_rate or _RATES[self.optimizer]


class CheckpointSettings(Settings):
    """When and how a run is saved."""

    every_s: float = Field(default=300.0, gt=0)
    every_steps: int | None = Field(default=None, ge=1, description="instead of by the clock")
    keep: int = Field(default=2, ge=1, description="the last good ones")
    max_file_bytes: int = Field(default=2**30, ge=2**10)


class PretrainSettings(Settings):
    """Everything that `python -m jobs.train` can be told."""

    name: str = Field(default="pretrained", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    data: list[SourceSettings] = Field(min_length=1)
    output: str = Field(min_length=1, description="folder, local or in a store: tokens, checkpoints, curve, result")
    bundle: str | None = Field(default=None, min_length=1, description="go on from its trunk; None: from scratch")
    languages: list[str] = Field(default=["zh", "en"], min_length=1, description="what the result says it knows")
    tokenizer: TokenizerSettings = TokenizerSettings()
    architecture: ArchitectureSettings = ArchitectureSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    workers: int = Field(default=1, ge=1, description="over one: Ray Train")
    sharding: Literal["none", "fsdp"] = "none"
    max_failures: int = Field(default=3, ge=0, description="of workers, before Ray Train gives up")
    ray_address: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    log_every_s: float = Field(default=30.0, gt=0)

    @field_validator("data", mode="before")
    @classmethod
    def _paths_are_sources(cls, data: object) -> object:
        """`data: [a, b]` is short for `data: [{input: a}, {input: b}]`, and `data: a` for `data: [a]`."""
        listed = data if isinstance(data, list) else [data]
        return [{"input": one} if isinstance(one, str) else one for one in listed]

    @model_validator(mode="after")
    def _fits_together(self) -> PretrainSettings:
        is_gpt, kind = self.architecture.family == GPT, self.objective.kind
        if is_gpt != (kind == "clm"):
            right = "clm" if is_gpt else "mlm"
            raise ValueError(f"a {self.architecture.family} can't learn objective.kind {kind!r}: it learns {right!r}")
        if self.objective.sentence_order and kind != "mlm":
            raise ValueError("objective.sentence_order goes with objective.kind mlm")
        if self.sharding == "fsdp" and self.workers == 1:
            raise ValueError("sharding fsdp spreads a model over workers: workers must be over 1")
        self._check_parent()
        self.check_room()
        shape = self.architecture
        if shape.hidden_size % shape.num_attention_heads:
            raise ValueError(
                f"architecture.hidden_size {shape.hidden_size} must be a multiple of num_attention_heads "
                f"{shape.num_attention_heads}"
            )
        return self

    def check_room(self) -> None:
        """A pass must have room for the longest text.

        Raises
        ------
        ValueError : it hasn't.
        """
        share = self.schedule.batch_tokens // (self.workers * self.schedule.accumulate)
        if share < self.architecture.max_length:
            raise ValueError(
                f"schedule.batch_tokens {self.schedule.batch_tokens} over {self.workers} workers and "
                f"{self.schedule.accumulate} passes is {share} tokens a pass, under architecture.max_length "
                f"{self.architecture.max_length}"
            )

    def _check_parent(self) -> None:
        """A run that goes on from a bundle has its shape and its tokenizer, and learns hidden words."""
        if self.bundle is None:
            return
        given = [f"tokenizer.{name}" for name in sorted(self.tokenizer.model_fields_set)]
        given += [f"architecture.{name}" for name in sorted(self.architecture.model_fields_set - FREE_OF_PARENT)]
        if given:
            raise ValueError(f"with bundle {self.bundle}, {given[0]} is the bundle's: leave it out")
        if self.objective.kind != "mlm" or self.objective.sentence_order:
            raise ValueError("with a bundle, objective.kind must be mlm without sentence_order")
