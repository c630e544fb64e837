"""Settings of a fine-tuning: what stands in its YAML. `jobs/finetune.yaml` holds every default.

The least is `input` and `output`: one file with the columns `text` and `label` (or `spans`), which becomes one set with
one head. `sets` says the same of several files, in the words of `jobs.evaluate`, and each may label only some heads.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import Settings
from jobs.evaluate.settings import LabelSettings, SetSettings
from models.architecture import Pooling

CORRECTIONS = "corrections"  # the name of the set that corrections make


class FinetuneError(ValueError):
    """Data or settings that nothing can be learnt from; the message names them and what would be right."""


class HeadSettings(Settings):
    """How a head is learnt. Without it all is guessed from its labels."""

    kind: Literal["auto", "single", "ordinal", "multi", "token"] = "auto"
    labels: list[str] | None = Field(default=None, description="None: those that occur")
    pooling: Pooling = "mean"
    weight: float = Field(default=1.0, gt=0, description="of its loss beside the other heads'")
    class_weights: Literal["none", "balanced"] = "none"


class ScheduleSettings(Settings):
    """How the trunk and the heads are trained; the rates are the highest ones, of the top layer."""

    epochs: int | None = Field(default=None, ge=1, description="None: by the number of texts")
    token_budget: int | None = Field(default=None, ge=16, description="tokens a step; None: by the texts' length")
    learning_rate: float = Field(default=0.003, gt=0, description="of embeddings, norms, biases and heads")
    matrix_learning_rate: float = Field(default=0.01, gt=0, description="of the layers' matrices")
    layer_decay: float = Field(default=0.9, gt=0, le=1, description="each layer further down learns this much slower")
    warmup: float = Field(default=0.06, ge=0, lt=1, description="share of all steps")
    clip: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    dropout: float = Field(default=0.1, ge=0, lt=1)
    mask_rate: float = Field(default=0.1, ge=0, lt=1, description="share of words hidden; falls to 0 at the end")
    patience: int = Field(default=4, ge=1, description="epochs without a better figure before it stops")
    time_limit_s: float | None = Field(default=None, gt=0)
    freeze_trunk: bool = False


class AdapterSettings(Settings):
    """Low-rank adapters instead of the whole trunk: a bundle of some 300 KB beside its base."""

    rank: int = Field(default=8, ge=1, description="of each matrix' change")


class TeacherSettings(Settings):
    """A bundle whose probabilities teach a head of one label a text (Hinton et al. 2015), beside labels or alone."""

    bundle: str = Field(min_length=1, description="has a head of that name with the same labels")
    head: str = Field(min_length=1)
    sets: list[str] = Field(min_length=1, description="whose texts it answers; one without labels trains by it alone")
    weight: float = Field(default=0.5, gt=0, le=1, description="beside a label, which has the rest")


class FinetuneSettings(Settings):
    """Everything that `python -m jobs.finetune` can be told."""

    bundle: str = Field(default="starter", min_length=1)
    output: str = Field(min_length=1, description="folder of the new bundle")
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="None: the folder's")
    input: str | None = Field(default=None, min_length=1)
    text: str = Field(default="text", min_length=1)
    label: str | None = Field(default=None, min_length=1, description="None: the column label, else spans")
    id: str | None = Field(default=None, min_length=1)
    head: str | None = Field(default=None, description="None: the label column's name")
    sets: dict[str, SetSettings] = Field(default={})
    repeat: dict[str, float] = Field(default={}, description="by set: how often an epoch reads it")
    heads: dict[str, HeadSettings] = Field(default={})
    teachers: list[TeacherSettings] = Field(default=[], description="where two speak of a text, the later one does")
    corrections: str | None = Field(default=None, min_length=1, description="columns as the first set's")
    corrections_weight: float = Field(default=5.0, gt=0)
    keep_heads: bool = False
    parent_share: float = Field(default=0.0, ge=0, lt=1, description="of the parent's weights, kept in the new ones")
    embedding: Pooling | None = Field(default=None, description="also ship this vector of the text, of length 1")
    terms: str | None = Field(default=None, min_length=1, description="Markdown file on data and terms, for the card")
    method: Literal["auto", "finetune", "fewshot"] = "auto"
    schedule: ScheduleSettings = ScheduleSettings()
    adapter: AdapterSettings | None = Field(default=None, description="None: all weights are trained and kept")
    held_out: float = Field(default=0.15, gt=0, lt=0.5, description="share of texts for the figures, without a split")
    tune: float = Field(default=0.06, gt=0, lt=0.5, description="share of texts for stopping and calibration")
    train_share: float = Field(default=1.0, gt=0, le=1, description="of training texts that are used: a learning curve")
    max_length: int | None = Field(default=None, ge=8, description="tokens; None: the parent's")
    canaries: int = Field(default=0, ge=0)
    baseline: bool = True
    replace: bool = False
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    log_every_s: float = Field(default=30.0, gt=0)
    checkpoint_every_s: float = Field(default=60.0, gt=0)

    @field_validator("repeat")
    @classmethod
    def _repeats_are_positive(cls, repeat: dict[str, float]) -> dict[str, float]:
        for name, times in repeat.items():
            if times <= 0:
                raise ValueError(f"{name}: an epoch must read a set at least in part, got {times}")
        return repeat

    @model_validator(mode="after")
    def _has_data(self) -> FinetuneSettings:
        if (self.input is None) == (not self.sets):
            raise ValueError("give either input (one file) or sets (several), for example input=my.csv")
        taught = {name for teacher in self.teachers for name in teacher.sets}
        if unlabelled := [name for name, one in self.sets.items() if not one.labels and name not in taught]:
            raise ValueError(f"sets without labels and without a teacher can't teach anything: {unlabelled}")
        if CORRECTIONS in self.sets:
            raise ValueError(f"{CORRECTIONS!r} is the name of the corrections' own set: choose another")
        known = self.sets.keys() if self.sets else {self.set_name}
        if unknown := self.repeat.keys() - known:
            raise ValueError(f"repeat names {sorted(unknown)}; the sets are {sorted(known)}")
        if unknown := taught - known:
            raise ValueError(f"teachers name the sets {sorted(unknown)}; the sets are {sorted(known)}")
        return self

    @model_validator(mode="after")
    def _ways_agree(self) -> FinetuneSettings:
        if self.teachers and self.method == "fewshot":
            raise ValueError("method fewshot learns from labels alone; with teachers use method=finetune")
        if self.adapter is not None and (self.schedule.freeze_trunk or self.method == "fewshot"):
            raise ValueError("adapter moves the trunk's answers; freeze_trunk and method fewshot keep them: choose one")
        if self.parent_share and (self.adapter is not None or self.method == "fewshot"):
            raise ValueError("parent_share mixes weights: leave out adapter and method fewshot")
        return self

    @property
    def set_name(self) -> str:
        """Name of the one set of `input`."""
        stem = PurePath(self.input or "").name.partition(".")[0]
        return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in stem).lstrip("_-") or "mine"

    def one_set(self, label: str) -> dict[str, SetSettings]:
        """`input` as a set whose labels stand in the column `label`."""
        assert self.input is not None
        labels = {self.head or label: LabelSettings(column=label)}
        return {self.set_name: SetSettings(input=self.input, id=self.id, text=self.text, labels=labels)}
