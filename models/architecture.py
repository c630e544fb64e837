"""The shape of a trunk: what has to be known to build one and to fill it with weights.

Field names are transformers' own (`BertConfig` and its kin), so that `config.json` of a checkpoint reads as it stands.
What sets the families apart is data here: where the norms stand and where positions begin. The trunk is one.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Family = Literal["megatron-bert", "bert", "roberta", "xlm-roberta"]
Pooling = Literal[
    "pooler", "first", "mean"
]  # one vector a text: BERT's pooler on the first token, or that, or the mean


class Architecture(BaseModel):
    """An encoder with a packed trunk here. Frozen; unknown keys are errors.

    Megatron-BERT norms before each block (pre-LN; Shoeybi et al. 2019, section 4.1), the others after (post-LN; Devlin
    et al. 2018). All use the exact GELU. `pad_token_id` matters to RoBERTa alone, which begins to
    count positions behind it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    family: Family = "megatron-bert"
    vocab_size: int = Field(ge=8)
    hidden_size: int = Field(ge=8)
    num_hidden_layers: int = Field(ge=1)
    num_attention_heads: int = Field(ge=1)
    intermediate_size: int = Field(ge=8)
    max_position_embeddings: int = Field(ge=8)
    type_vocab_size: int = Field(default=2, ge=1)
    layer_norm_eps: float = Field(default=1e-12, gt=0)
    pad_token_id: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits_together(self) -> Architecture:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.max_length < 1:
            raise ValueError(
                f"max_position_embeddings {self.max_position_embeddings} must be over pad_token_id + 1 "
                f"({self.position_offset}), where {self.family} begins to count positions"
            )
        return self

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def norm_first(self) -> bool:
        """Whether a block norms what goes in, with one more norm after the last layer; else what comes out."""
        return self.family == "megatron-bert"

    @property
    def has_embedding_norm(self) -> bool:
        """Whether the embeddings are normed before the first layer."""
        return not self.norm_first

    @property
    def position_offset(self) -> int:
        """Row of the position embeddings that a text's first token takes."""
        return self.pad_token_id + 1 if self.family in ("roberta", "xlm-roberta") else 0

    @property
    def max_length(self) -> int:
        """Longest text in tokens for which there are position embeddings."""
        return self.max_position_embeddings - self.position_offset

    def flops(self, lengths_sum: int, lengths_square_sum: int, *, num_firsts: int | None = None) -> int:
        """Multiply-add operations, times two, of one forward pass of the trunk over packed texts.

        Parameters
        ----------
        lengths_sum : tokens over all texts.
        lengths_square_sum : sum of the squares of the texts' lengths (attention is quadratic in each text alone).
        num_firsts : texts, where the last layer computes each one's first token alone; None where it computes all.

        Linear layers only, no norms or activations, as in Narayanan et al. 2021, appendix.
        """
        key_value = 2 * self.hidden_size**2
        rest = 2 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size
        layer = 2 * (key_value + rest) * lengths_sum + 4 * self.hidden_size * lengths_square_sum
        if num_firsts is None:
            return self.num_hidden_layers * layer
        last = 2 * (key_value * lengths_sum + rest * num_firsts) + 4 * self.hidden_size * lengths_sum
        return (self.num_hidden_layers - 1) * layer + last


class ForeignArchitecture(BaseModel):
    """A family without a packed trunk here: transformers builds it from the checkpoint's own `config.json`.

    `max_position_embeddings` is the longest text in tokens, whatever positions the family sets apart.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    family: Literal["transformers"] = "transformers"
    model_type: str
    max_position_embeddings: int = Field(ge=8)

    @property
    def max_length(self) -> int:
        """Longest text in tokens."""
        return self.max_position_embeddings
