"""Settings of the scoring job: what stands in its YAML."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import Settings
from jobs.reading.columns import Columns
from models.precision import Precision

RESERVED_COLUMNS = ("lang", "num_tokens", "truncated", "sentiment")


class UnitSettings(Settings):
    """How large a unit of work may be. A unit is read, scored and written whole, so it bounds memory and lost work."""

    rows: int = Field(default=10_000, ge=1)
    text_mib: float = Field(default=16, ge=2**-20, le=1024)


class PoolSettings(Settings):
    """The actors that hold the model."""

    min_size: int | None = Field(default=None, ge=1, description="None: what the cluster has room for, or work if less")
    max_size: int | None = Field(default=None, ge=1, description="None: no limit but the cluster's, should it grow")
    num_cpus: float | None = Field(default=None, gt=0, description="of one actor; None: its threads, less a share")
    num_gpus: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        default=0, description="of one actor; 0.5 puts two on one GPU; auto: as many on one as a probe finds best"
    )
    threads: int = Field(default=1, ge=1, description="cores that one actor computes on, each a batch of its own")

    @model_validator(mode="after")
    def _max_over_min(self) -> PoolSettings:
        if self.max_size is not None and self.max_size < (self.min_size or 1):
            raise ValueError(f"max_size {self.max_size} is under min_size {self.min_size}")
        return self


class ScoreSettings(Settings):
    """Everything that `python -m jobs.score` can be told. `input`, `output`, `bundle` and `columns` have no default."""

    input: str = Field(min_length=1)
    output: str = Field(min_length=1)
    bundle: str = Field(min_length=1)
    heads: list[str] | None = Field(default=None, min_length=1, description="None: all but embeddings")
    columns: dict[str, str]
    format: Literal["auto", "parquet", "jsonl", "csv"] = "auto"
    bad_files: Literal["stop", "reject"] = "stop"
    max_rejected_share: float = Field(default=0.01, ge=0, le=1)
    check_ids: bool = True
    precision: Literal["auto", Precision] = "auto"
    token_budget: int | None = Field(default=None, ge=1, description="None: found by a probe of an actor's device")
    unit: UnitSettings = UnitSettings()
    pool: PoolSettings = PoolSettings()
    price_per_hour: float | None = Field(default=None, ge=0, description="of the whole cluster, in any currency")
    ray_address: str | None = Field(default=None, description="None: RAY_ADDRESS if set, else a local Ray of its own")

    @field_validator("columns")
    @classmethod
    def _id_and_text(cls, columns: dict[str, str]) -> dict[str, str]:
        if missing := {"id", "text"} - columns.keys():
            raise ValueError(f"columns must map id and text to columns of the input; missing: {sorted(missing)}")
        taken = [name for name in columns if name in RESERVED_COLUMNS or name.startswith("prob_")]
        if taken:
            raise ValueError(f"columns {taken} are names of scores; pass them through as source_{taken[0]} or the like")
        return columns

    def reading_columns(self) -> Columns:
        """The mapping as the readers take it: everything but id and text is passed through."""
        kept = tuple((name, source) for name, source in self.columns.items() if name not in ("id", "text"))
        return Columns(self.columns["id"], self.columns["text"], kept)
