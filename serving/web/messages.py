"""The REST messages: what a client may send, and what OpenAPI shows of the answers.

Bodies are parsed by hand with these models, so that size is checked while reading and every fault comes out as one
`RequestError` with the field's name. Lone surrogates, numbers too long to be read and nesting without end are faults of
the JSON itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator

from serving.errors import RequestError

MAX_NAME_CHARS = 256
Name = Annotated[str, Field(max_length=MAX_NAME_CHARS)]


class Message(BaseModel):
    """Base of all that a client may send: strict, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Item(Message):
    """A text with the id under which its answer is to come back. A plain string is an item without an id."""

    id: Name | None = None
    text: str

    @model_validator(mode="before")
    @classmethod
    def _plain_string(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"text": value}
        if not isinstance(value, dict):
            raise ValueError("must be a string, or an object with text and perhaps id")
        return value


_ITEM_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {
                "id": {"anyOf": [{"type": "string", "maxLength": MAX_NAME_CHARS}, {"type": "null"}]},
                "text": {"type": "string"},
            },
            "required": ["text"],
            "additionalProperties": False,
        },
    ]
}
_TEXTS_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": _ITEM_SCHEMA, "minItems": 1}]}
Items = Annotated[
    list[Item],
    Field(strict=False),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    WithJsonSchema(_TEXTS_SCHEMA),
]


class ScoreRequest(Message):
    """One text, or a list of strings and of objects with `id` and `text`."""

    texts: Items
    model: Name | None = Field(default=None, description="may be left out where one model is served")
    version: Name | None = Field(default=None, description="left out: chosen by share")
    heads: list[Name] | None = Field(default=None, max_length=64, description="left out: all")


class EmbeddingsRequest(Message):
    """As OpenAI's embeddings take it; token ids instead of text aren't."""

    input: Annotated[
        list[str],
        BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
    ]
    model: Name
    encoding_format: Literal["float", "base64"] = "float"
    user: Name | None = Field(default=None, description="ignored")


def _whole(value: Any) -> Any:
    """5.0 is an integer to JSON Schema."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class ExplainRequest(Message):
    """A text, and the score to explain."""

    text: str
    model: Name | None = None
    version: Name | None = None
    head: Name | None = Field(default=None, description="left out: the first")
    label: Name | None = Field(default=None, description="left out: the likeliest; an ordinal head's expected value")
    k: Annotated[int, BeforeValidator(_whole)] = Field(default=10, ge=1, le=128, description="most spans in the answer")


class ErrorBody(BaseModel):
    """What went wrong, in words for the client."""

    code: str
    message: str
    field: str | None
    request_id: str


class ErrorAnswer(BaseModel):
    """Every answer that isn't 200."""

    error: ErrorBody


class ItemError(BaseModel):
    """Why one text of a list has no scores."""

    code: str
    message: str
    field: str


class ScoreResult(BaseModel):
    """One text's scores, or its error. `scores` holds the columns that the scoring job writes."""

    id: str | None = None
    lang: str | None = None
    num_tokens: int | None = None
    truncated: bool | None = None
    clean_text: str | None = Field(default=None, description="what spans count in; of bundles that mark spans")
    scores: dict[str, Any] | None = None
    error: ItemError | None = None


class ScoreAnswer(BaseModel):
    """Results in the order of the texts."""

    model: str = Field(description="name@digest of the bundle that answered")
    version: str
    request_id: str
    num_tokens: int
    results: list[ScoreResult]


class Embedding(BaseModel):
    """One text's vector: numbers, or base64 of little-endian 32-bit floats."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """As OpenAI's clients read it."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: Usage


class SpanEffect(BaseModel):
    """A span of the text as sent, in characters, and what the score loses without it."""

    start: int
    end: int
    text: str
    effect: float


class ExplainAnswer(BaseModel):
    """Spans by the strength of their effect on `score`."""

    model: str
    version: str
    request_id: str
    method: str
    head: str
    column: str
    score: float
    truncated: bool
    num_tokens: int
    attributions: list[SpanEffect]


class HeadAnswer(BaseModel):
    """A head: its labels, and its columns with their Arrow types."""

    name: str
    kind: str
    labels: list[str]
    columns: dict[str, str]


class ModelAnswer(BaseModel):
    """A version of a model. What only a running replica knows is null until one has answered."""

    id: str
    object: Literal["model"]
    version: str
    share: float
    model: str | None
    languages: list[str] | None
    max_length: int | None
    precision: str | None
    device: str | None
    heads: list[HeadAnswer] | None
    card: str | None


class ModelsAnswer(BaseModel):
    """All versions of all models that the caller may use."""

    object: Literal["list"]
    data: list[ModelAnswer]


AnyMessage = TypeVar("AnyMessage", bound=BaseModel)


def parse(body: bytes, model: type[AnyMessage]) -> AnyMessage:
    """Read a JSON body.

    Raises
    ------
    RequestError : invalid_json, or invalid_request with the first field that doesn't fit.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        fault: Mapping[str, Any] = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if fault["type"] == "json_invalid":
            raise RequestError("invalid_json", fault["msg"], field="body") from None
        where = ".".join(str(part) for part in fault["loc"])[:MAX_NAME_CHARS] or "body"
        raise RequestError("invalid_request", fault["msg"].removeprefix("Value error, "), field=where) from None
