"""The shape of a trunk: what has to be known to build one and to fill it with weights.

Field names are transformers' own (`MegatronBertConfig`), so that `config.json` of a checkpoint reads as it stands.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Architecture(BaseModel):
    """A Megatron-BERT encoder (pre-LN; Shoeybi et al. 2019, section 4.1). Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    family: Literal["megatron-bert"] = "megatron-bert"
    vocab_size: int = Field(ge=8)
    hidden_size: int = Field(ge=8)
    num_hidden_layers: int = Field(ge=1)
    num_attention_heads: int = Field(ge=1)
    intermediate_size: int = Field(ge=8)
    max_position_embeddings: int = Field(ge=8)
    type_vocab_size: int = Field(default=2, ge=1)
    layer_norm_eps: float = Field(default=1e-12, gt=0)

    @model_validator(mode="after")
    def _heads_divide_hidden(self) -> Architecture:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_attention_heads {self.num_attention_heads}"
            )
        return self

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.hidden_size // self.num_attention_heads

    def flops(self, lengths_sum: int, lengths_square_sum: int) -> int:
        """Multiply-add operations, times two, of one forward pass of the trunk over packed texts.

        Parameters
        ----------
        lengths_sum : tokens over all texts.
        lengths_square_sum : sum of the squares of the texts' lengths (attention is quadratic in each text alone).

        Linear layers only, no norms or activations, as in Narayanan et al. 2021, appendix.
        """
        dense = 4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size
        return self.num_hidden_layers * (2 * dense * lengths_sum + 4 * self.hidden_size * lengths_square_sum)


class ForeignArchitecture(BaseModel):
    """A family without a packed trunk here: transformers builds it from the checkpoint's own `config.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    family: Literal["transformers"] = "transformers"
    model_type: str
    max_position_embeddings: int = Field(ge=8)
