"""Documents to marked tokens: ids, and beside each whether it goes on a word and whether it begins a sentence.

Words come from the tokenizer itself (the pieces of a word are hidden together); Chinese words from jieba where it is
installed (extra `train`). Without it Chinese is hidden in chance runs of characters, which are then drawn in every step
anew. Both marks share the integer with the id, four bytes a token in all.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from jobs.train.pretrain_settings import PretrainError

GOES_ON, BEGINS = 1 << 31, 1 << 30  # a word; a sentence
ID = BEGINS - 1

Marked = NDArray[np.uint32]
Words = Literal["jieba", "chance"]

_HAN_RUN = re.compile("[\u3400-\u9fff]{2,}")
_SENTENCE_END = re.compile(r"[。！？!?…]+[”’\"')）】]*\s*|\.\s+|\n+")


def choose_words(asked: Literal["auto", "jieba", "chance"]) -> Words:
    """Where Chinese words come from.

    Raises
    ------
    PretrainError : jieba was asked for and isn't installed.
    """
    has_jieba = importlib.util.find_spec("jieba") is not None
    if asked == "jieba" and not has_jieba:
        raise PretrainError("objective.chinese_words is jieba, which isn't installed: pip install 'verbatim[train]'")
    return "jieba" if asked != "chance" and has_jieba else "chance"


def encode_documents(tokenizer: Tokenizer, words: Words, documents: Sequence[str]) -> list[Marked]:
    """Marked tokens of each document, without special tokens around it."""
    encodings = tokenizer.encode_batch(list(documents), add_special_tokens=False)
    return [_mark(encoding, document, words) for encoding, document in zip(encodings, documents, strict=True)]


def _mark(encoding: Encoding, document: str, words: Words) -> Marked:
    marked = np.array(encoding.ids, dtype=np.uint32)
    if len(marked) == 0:
        return marked
    starts = np.array(encoding.offsets, dtype=np.int64)[:, 0]
    word = np.array([-1 if index is None else index for index in encoding.word_ids])
    goes_on = np.zeros(len(marked), np.bool_)
    goes_on[1:] = (word[1:] == word[:-1]) & (word[1:] >= 0)
    if words == "jieba":
        goes_on |= _inside_chinese_words(document)[np.minimum(starts, len(document) - 1)]
    sentences = [0, *(match.end() for match in _SENTENCE_END.finditer(document))]
    first = np.unique(np.searchsorted(starts, sentences))
    marked[goes_on] |= GOES_ON
    marked[first[first < len(marked)]] |= BEGINS
    return marked


def _inside_chinese_words(document: str) -> NDArray[np.bool_]:
    """For each character, whether it is Chinese and goes on the word of the one before."""
    inside = np.zeros(len(document), np.bool_)
    for run in _HAN_RUN.finditer(document):
        at = run.start()
        for word in _jieba().cut(run[0]):
            inside[at + 1 : at + len(word)] = True
            at += len(word)
    return inside


@cache
def _jieba() -> Any:
    jieba = importlib.import_module("jieba")
    jieba.setLogLevel(logging.WARNING)
    return jieba
