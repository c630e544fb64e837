"""The tokeniser that a checkpoint was trained with: built from its files, and held against its word embeddings.

Megatron-LM pads the embeddings to a multiple of `make_vocab_size_divisible_by` x tensor-parallel ranks. A tokeniser is
the checkpoint's if its size, padded so, gives the rows found; the padding rows are then cut off. Two tokenisers of
nearly the same size can't be told apart by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer
from tokenizers.implementations.byte_level_bpe import ByteLevelBPETokenizer

from models.convert.errors import ConversionError
from models.convert.sizes import Sizes

END_OF_TEXT = "<|endoftext|>"
_ADDED_BY_MEGATRON = 2  # its BERT tokeniser appends [BOS] and [EOS] to the vocabulary, which no text ever uses
_CASED = {"BertWordPieceLowerCase": False, "BertWordPieceCase": True}


@dataclass(frozen=True)
class TokenizerFiles:
    """What the user gives: a `tokenizer.json`, or the vocabulary that Megatron-LM was run with."""

    tokenizer: Path | None = None
    vocab: Path | None = None
    merges: Path | None = None
    cased: bool | None = None


def build_tokenizer(files: TokenizerFiles, sizes: Sizes, tokenizer_type: str | None) -> Tokenizer:
    """Build the tokeniser.

    Raises
    ------
    ConversionError : a file is missing or unreadable, or a flag contradicts the checkpoint.
    """
    if (files.tokenizer is None) == (files.vocab is None):
        raise ConversionError("give the checkpoint's tokeniser, as either --tokenizer tokenizer.json or --vocab")
    try:
        if files.tokenizer is not None:
            return Tokenizer.from_file(str(files.tokenizer))
        if sizes.family == "gpt":
            return _byte_pairs(files)
        return _word_pieces(files, tokenizer_type)
    except ConversionError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise ConversionError(f"{files.tokenizer or files.vocab} isn't a usable tokeniser: {error}") from error


def without_padding(words_vd: torch.Tensor, tokenizer: Tokenizer, sizes: Sizes) -> torch.Tensor:
    """Cut the word embeddings, V x D, to the tokeniser's entries.

    Raises
    ------
    ConversionError : the tokeniser isn't the checkpoint's; both numbers are named.
    """
    num_entries = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    rows, multiple = len(words_vd), sizes.vocab_multiple
    allowed = {num_entries, _padded(num_entries, multiple), _padded(num_entries + _ADDED_BY_MEGATRON, multiple)}
    if rows not in allowed:
        raise ConversionError(
            f"the tokeniser has {num_entries} entries, {_padded(num_entries, multiple)} padded to a multiple of "
            f"{multiple}, but the checkpoint has {rows} word embeddings: it was trained with another tokeniser"
        )
    return words_vd[:num_entries].clone()


def _padded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _word_pieces(files: TokenizerFiles, tokenizer_type: str | None) -> Tokenizer:
    saved = _CASED.get(tokenizer_type or "")
    cased = saved if files.cased is None else files.cased
    if cased is None:
        raise ConversionError("the checkpoint doesn't say whether its vocabulary is cased: give --cased or --uncased")
    if saved is not None and cased != saved:
        raise ConversionError(
            f"the checkpoint was trained with {tokenizer_type}, but --{'' if cased else 'un'}cased is given"
        )
    return BertWordPieceTokenizer(str(files.vocab), lowercase=not cased)._tokenizer


def _byte_pairs(files: TokenizerFiles) -> Tokenizer:
    if files.merges is None:
        raise ConversionError("a GPT's --vocab vocab.json needs its --merges merges.txt")
    tokenizer = ByteLevelBPETokenizer(str(files.vocab), str(files.merges))._tokenizer
    if tokenizer.token_to_id(END_OF_TEXT) is not None:
        tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer
