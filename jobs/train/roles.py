"""What a tokenizer calls the tokens that a model needs: BERT's names, RoBERTa's, GPT's."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from jobs.train.tokenizer import FIRST, LAST, MASK

MASKS = (MASK, "<mask>")
FIRSTS = (FIRST, "<s>")
LASTS = (LAST, "</s>")
END_OF_TEXT = "<|endoftext|>"
ENDS = (END_OF_TEXT, *LASTS)


def find_role(tokenizer: Tokenizer, role: str, names: Sequence[str]) -> int:
    """The id of the first of `names` that the tokenizer has.

    Raises
    ------
    ValueError : it has none of them.
    """
    for name in names:
        if (found := tokenizer.token_to_id(name)) is not None:
            return int(found)
    raise ValueError(f"the tokenizer has no {role} token: one of {', '.join(names)} is needed")
