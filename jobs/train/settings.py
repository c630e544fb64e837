"""Settings of a training run: one YAML, checked before any work starts.

Every share, rate and length is a number of the recipe; nothing that changes a bundle's bytes stands outside of it but
the texts themselves and the library versions.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from cluster.config import Settings
from jobs.train.sets import check_may_train


class ShapeSettings(Settings):
    """The trunk's shape; the vocabulary's size is the tokenizer's."""

    hidden_size: int = Field(ge=8)
    num_hidden_layers: int = Field(ge=1)
    num_attention_heads: int = Field(ge=1)
    intermediate_size: int = Field(ge=8)


class StageSettings(Settings):
    """One stage of training. `sets` gives how often a set is read in an epoch: 2.0 twice, 0.25 a random quarter."""

    sets: dict[str, float] = Field(min_length=1)
    epochs: int = Field(ge=1)
    token_budget: int = Field(ge=16)  # tokens a step
    learning_rate: float = Field(gt=0)  # of embeddings, norms, biases and heads
    matrix_learning_rate: float = Field(gt=0)  # of the layers' matrices
    warmup: float = Field(default=0.06, ge=0, lt=1)  # share of all steps
    clip: float = Field(default=1.0, gt=0)  # largest norm of the gradient
    dropout: float = Field(default=0.0, ge=0, lt=1)
    mask_rate: float = Field(ge=0, lt=1)  # share of tokens hidden; in fine-tuning it falls to 0 at the last step
    mlm_weight: float = Field(default=1.0, ge=0)  # of the masked-language loss beside the heads'
    join_rate: float = Field(default=0.0, ge=0, le=1)  # share of texts joined to another one

    @field_validator("sets")
    @classmethod
    def _sets_may_train(cls, sets: dict[str, float]) -> dict[str, float]:
        for name, repeat in sets.items():
            check_may_train(name)
            if repeat <= 0:
                raise ValueError(f"{name}: an epoch must read a set at least in part, got {repeat}")
        return sets


class TrainSettings(Settings):
    """A whole run: tokenizer, pretraining, fine-tuning, calibration, bundle."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(ge=0)
    data: str  # folder with feedback/ and text/
    work: str  # folder for checkpoints; a re-run goes on from what stands there
    bundle: str  # folder of the finished bundle
    max_length: int = Field(ge=8)
    vocab_size: int = Field(ge=64)
    precision: Literal["fp32", "bf16"] = "bf16"
    threads: int = Field(default=2, ge=1)
    shape: ShapeSettings
    pretrain: StageSettings
    finetune: StageSettings
    calibrate_on: list[str] = Field(min_length=1)  # sets whose dev part, every other row, fits the temperatures
    report_on: list[str] = Field(min_length=1)  # sets whose dev part is measured for the card
    log_every_s: float = Field(default=30.0, gt=0)
    checkpoint_every_s: float = Field(default=120.0, gt=0)
