"""The messages of asynchronous jobs: what a client hands in, and what OpenAPI shows of the answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from serving.web.messages import Items, Message, Name

State = Literal["queued", "running", "succeeded", "failed", "cancelled", "lost"]

_MAX_COLUMNS = 128
_Uri = Annotated[str, Field(min_length=1, max_length=2048)]
_COLUMN_SCHEMA = {"type": "string", "minLength": 1, "maxLength": 256}
_COLUMNS_SCHEMA = {
    "type": "object",
    "properties": {"id": _COLUMN_SCHEMA, "text": _COLUMN_SCHEMA},
    "required": ["id", "text"],
    "additionalProperties": _COLUMN_SCHEMA,
    "propertyNames": {"minLength": 1, "maxLength": 256},
    "maxProperties": _MAX_COLUMNS,
}


class Corpus(Message):
    """A corpus in a store that the service may use, and where its scores are to lie."""

    input: _Uri = Field(description="a file, folder or glob")
    output: _Uri = Field(description="a folder; scores/ and manifest.json are written below it")
    columns: Annotated[dict[str, str], WithJsonSchema(_COLUMNS_SCHEMA)] = Field(
        description="name in the scores: column of the input; id and text, and any others to pass through"
    )
    format: Literal["auto", "parquet", "jsonl", "csv"] = "auto"

    @field_validator("columns")
    @classmethod
    def _id_and_text(cls, columns: dict[str, str]) -> dict[str, str]:
        if not {"id", "text"} <= columns.keys():
            raise ValueError("must map at least id and text to columns of the input")
        if len(columns) > _MAX_COLUMNS:
            raise ValueError(f"may name at most {_MAX_COLUMNS} columns")
        if not all(1 <= len(name) <= 256 for pair in columns.items() for name in pair):
            raise ValueError("names of columns must have 1 to 256 characters")
        return columns


class JobRequest(Message):
    """Either texts, or a corpus."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["texts"]}, {"required": ["corpus"]}]})

    texts: Items | None = None
    corpus: Corpus | None = None
    model: Name | None = Field(default=None, description="may be left out where one model is served")
    version: Name | None = Field(default=None, description="left out: chosen by share")

    @model_validator(mode="after")
    def _one_of_both(self) -> JobRequest:
        given = self.model_fields_set & {"texts", "corpus"}
        if len(given) != 1 or not (self.texts or self.corpus):
            raise ValueError("give either texts, with at least one text, or corpus")
        return self


class JobAnswer(BaseModel):
    """A job as it stands."""

    id: str
    object: Literal["job"]
    state: State
    model: str
    version: str
    created_at: str = Field(description="ISO 8601, UTC")
    num_texts: int | None = Field(description="of a list; null for a corpus")
    output: str | None = Field(description="of a corpus; null for a list")
    message: str | None = Field(description="why it failed")
    manifest: dict[str, Any] | None = Field(description="counts, bundle, seconds, tokens: once it has succeeded")
