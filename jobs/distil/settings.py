"""Settings of a distillation: what stands in its YAML. `jobs/distil/distil.yaml` shows them all.

The least is a teacher, a student, texts and `output`. Sets are told in the words of `jobs.evaluate`; of a set with a
`split` only the rows of that value are read. Further teachers, each with texts of its own, stand under `also`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import Settings
from jobs.evaluate.settings import SetSettings
from jobs.finetune.device import Device


class DistilError(ValueError):
    """A teacher, a student or texts that nothing can be distilled from; the message says what would be right."""


class ShapeSettings(Settings):
    """The shape of a new Megatron-BERT; the vocabulary's size is the tokeniser's."""

    hidden_size: int = Field(ge=8)
    num_hidden_layers: int = Field(ge=1)
    num_attention_heads: int = Field(ge=1)
    intermediate_size: int = Field(ge=8)
    max_length: int = Field(default=256, ge=8, description="tokens")


class StudentSettings(Settings):
    """Who learns: a bundle that goes on from its weights, a new trunk, or the teacher made into a Megatron-BERT."""

    bundle: str | None = Field(default=None, min_length=1)
    shape: ShapeSettings | None = None
    like_teacher: bool = Field(default=False, description="its shape and weights, norms moved before the blocks")
    tokeniser: str | None = Field(default=None, min_length=1, description="a bundle, the teacher's too, or a file")

    @model_validator(mode="after")
    def _one_of_three(self) -> StudentSettings:
        if (self.bundle is not None) + (self.shape is not None) + self.like_teacher != 1:
            raise ValueError("give one of bundle (to go on from), shape (a new trunk) and like_teacher: true")
        if self.bundle is not None and self.tokeniser is not None:
            raise ValueError("a bundle has its own tokeniser: leave tokeniser out")
        if self.shape is not None and self.tokeniser is None:
            raise ValueError("a shape needs a tokeniser")
        return self


class LossSettings(Settings):
    """Weights of what the student is held to; 0 leaves one out. Words measured best (NOTES.md)."""

    embedding: float = Field(default=0.0, ge=0, description="the text's vector, by a linear map")
    similarity: float = Field(default=0.0, ge=0, description="cosines between the texts of a step")
    words: float = Field(default=1.0, ge=0, description="the last hidden states of each word, by a linear map")
    relations: float = Field(default=0.0, ge=0, description="how words attend to words in the last layer")
    logits: float = Field(default=0.0, ge=0, description="the answers of the teacher's heads")

    @model_validator(mode="after")
    def _something_is_learnt(self) -> LossSettings:
        if not any(dict(self).values()):
            raise ValueError("at least one loss must have a weight over 0")
        return self

    @property
    def need_words(self) -> bool:
        """Whether the teacher is asked about words."""
        return bool(self.words or self.relations)


class ScheduleSettings(Settings):
    """How the student is trained; the rates are the highest ones."""

    epochs: int = Field(default=3, ge=1)
    token_budget: int = Field(default=2048, ge=16, description="the student's tokens a step")
    learning_rate: float = Field(default=0.003, gt=0, description="of embeddings, norms, biases and maps")
    matrix_learning_rate: float = Field(default=0.01, gt=0, description="of the layers' matrices")
    warmup: float = Field(default=0.06, ge=0, lt=1, description="share of all steps")
    clip: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    dropout: float = Field(default=0.0, ge=0, lt=1)


class LessonSettings(Settings):
    """A teacher and the texts that it is asked about."""

    teacher: str = Field(min_length=1, description="a bundle or a Hugging Face folder")
    credit: str | None = Field(default=None, min_length=1, description="its name and licence, for the card")
    sets: dict[str, SetSettings] = Field(min_length=1)
    max_texts: int | None = Field(default=None, ge=1, description="of all its sets, drawn by the seed")
    losses: LossSettings = LossSettings()
    temperature: float = Field(default=2.0, gt=0, description="softens both sides' answers (logits)")

    @field_validator("sets")
    @classmethod
    def _no_labels_are_read(cls, sets: dict[str, SetSettings]) -> dict[str, SetSettings]:
        if labelled := [name for name, one in sets.items() if one.labels]:
            raise ValueError(f"labels aren't read here, the teacher gives them: leave them out of {labelled}")
        return sets


MAIN = "main"


class DistilSettings(LessonSettings):
    """Everything that `python -m jobs.distil` can be told. Teacher, student, sets and output have no default."""

    also: dict[str, LessonSettings] = Field(default={}, description="further teachers, learnt from in the same steps")
    student: StudentSettings
    output: str = Field(min_length=1, description="folder of the new bundle")
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="None: the folder's")
    languages: list[str] | None = Field(default=None, min_length=1, description="None: the student bundle's, else und")
    schedule: ScheduleSettings = ScheduleSettings()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Device = "auto"
    threads: int | None = Field(default=None, ge=1, description="None: all cores")
    seed: int = Field(default=0, ge=0)
    log_every_s: float = Field(default=30.0, gt=0)
    checkpoint_every_s: float = Field(default=60.0, gt=0)

    @field_validator("also")
    @classmethod
    def _main_is_taken(cls, also: dict[str, LessonSettings]) -> dict[str, LessonSettings]:
        if MAIN in also:
            raise ValueError(f"{MAIN!r} is what the first teacher's lesson is called: choose another name")
        return also

    @property
    def lessons(self) -> dict[str, LessonSettings]:
        """All teachers', the first one's under `main`."""
        return {MAIN: self, **self.also}
