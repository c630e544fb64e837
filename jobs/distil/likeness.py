"""A student that begins as its teacher made over: a BERT as a Megatron-BERT, with another vocabulary if it has one.

Texts give what the norms are fitted on; if the student's tokeniser is another bundle's, that bundle's own embeddings
help with tokens that the teacher can't spell.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from jobs.distil.prenorm import to_prenorm
from jobs.distil.settings import DistilError
from jobs.distil.vocabulary import move_vocabulary
from jobs.train.corpus import take_tokens
from models.architecture import Architecture
from models.bundle import TOKENIZER_FILE, Bundle
from models.packing import PackedBatch, pack
from models.weights import load_trunk

FITTED_TOKENS = 32_768  # what the norms are fitted on: attention of as many fits in memory


def prenorm_shape(teacher: Bundle, vocab_size: int) -> Architecture:
    """The shape of the Megatron-BERT that a teacher can be made into.

    Raises
    ------
    DistilError : it is one already, or has no packed trunk.
    """
    arch = teacher.spec.architecture
    if not isinstance(arch, Architecture) or arch.norm_first:
        raise DistilError(
            f"student.like_teacher: {teacher} isn't a BERT, RoBERTa or XLM-RoBERTa; go on from a Megatron-BERT by "
            "student.bundle, or give another family's student a shape"
        )
    changes = {"vocab_size": vocab_size, "family": "megatron-bert", "pad_token_id": 0}
    return arch.model_copy(update={**changes, "max_position_embeddings": teacher.spec.max_length})


def made_over(
    teacher: Bundle, arch: Architecture, tokenizer: Path, vocabulary: Bundle | None, texts: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Tensors of a trunk of `prenorm_shape`; `vocabulary` is the bundle that the tokeniser is of, if it is one's."""
    assert isinstance(teacher.spec.architecture, Architecture)
    post = load_trunk(teacher.spec.architecture, teacher.tensors(), has_pooler=False).float().eval()
    tensors = to_prenorm(post, _batch(teacher, texts)).state_dict()
    name = "position_embeddings.weight"
    tensors[name] = tensors[name][: arch.max_position_embeddings]
    old, new = (Tokenizer.from_file(str(path)) for path in (teacher.folder / TOKENIZER_FILE, tokenizer))
    name = "word_embeddings.weight"
    tensors[name] = move_vocabulary(tensors[name], old, new, _embeddings(vocabulary), torch.Generator())
    return tensors


def _batch(teacher: Bundle, texts: Sequence[str]) -> PackedBatch:
    tokens = teacher.tokeniser.encode(texts)
    num = max(1, int(np.searchsorted(np.cumsum(tokens.lengths), FITTED_TOKENS)))
    tokens = take_tokens(tokens, np.arange(min(num, len(texts))))
    return pack(tokens.ids, tokens.lengths)


def _embeddings(bundle: Bundle | None) -> torch.Tensor | None:
    """Of a bundle's words, if it has a packed trunk."""
    if bundle is None or not isinstance(arch := bundle.spec.architecture, Architecture):
        return None
    return load_trunk(arch, bundle.tensors(), has_pooler=False).word_embeddings.weight.detach().float()
