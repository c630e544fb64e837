"""The last step of an import: a forward pass over what was written, before anybody trusts it.

Shapes can all be right and the numbers still wrong (a fused order, a norm's epsilon), so the packed trunk is held
against transformers' own network on the same weights. That both read the checkpoint alike is all this shows: what the
weights were trained for, only an evaluation tells.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, GPT2LMHeadModel

from models.architecture import Architecture
from models.bundle import Bundle
from models.convert.errors import ConversionError
from models.forward import build_forward
from models.heads import HeadSpec
from models.packing import pack
from models.scorer import Scorer
from models.weights import load_trunk

TOLERANCE = 1e-4
_LENGTHS = (7, 5, 5, 1)


def check_trunk(bundle: Bundle, arch: Architecture, folder: Path) -> float:
    """Compare the packed trunk's hidden states with transformers' over `folder`; give the largest difference.

    Raises
    ------
    ConversionError : they aren't finite, or differ by more than `TOLERANCE`.
    """
    texts = [_ids(arch.vocab_size, length) for length in _LENGTHS]
    trunk = load_trunk(arch, bundle.tensors(), has_pooler=False).eval()
    theirs = AutoModel.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True).eval()
    with torch.inference_mode():
        ours_td = trunk(pack(np.concatenate(texts), np.array(_LENGTHS)))
        theirs_td = torch.cat([theirs(input_ids=torch.from_numpy(ids)[None]).last_hidden_state[0] for ids in texts])
    return _difference(ours_td, theirs_td)


def check_gpt(folder: Path) -> None:
    """Run transformers' GPT-2 over `folder`.

    Raises
    ------
    ConversionError : weights are missing or too many, or logits aren't finite.
    """
    model, report = GPT2LMHeadModel.from_pretrained(
        str(folder), dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    if wrong := sorted([*report["missing_keys"], *report["unexpected_keys"]]):
        raise ConversionError(f"{folder} doesn't hold the weights of its GPT-2: {wrong}")
    with torch.inference_mode():
        _finite(model.eval()(input_ids=torch.from_numpy(_ids(model.config.vocab_size, _LENGTHS[0]))[None]).logits)


def check_export(bundle: Bundle, folder: Path, head: HeadSpec) -> float:
    """Compare a bundle's logits of one head with transformers' over `folder`; give the largest difference.

    Raises
    ------
    ConversionError : they differ by more than `TOLERANCE`.
    """
    forward = build_forward(bundle, "fp32", torch.device("cpu"))
    model = AutoModelForSequenceClassification.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True)
    texts = [_ids(model.config.vocab_size, length) for length in _LENGTHS]
    index = bundle.spec.heads.index(head)
    ours_bc = forward(np.concatenate(texts).astype(np.int32), np.array(_LENGTHS, np.int32))[index]
    with torch.inference_mode():
        theirs_bc = torch.cat([model.eval()(input_ids=torch.from_numpy(ids)[None]).logits for ids in texts])
    return _difference(ours_bc, theirs_bc)


def check_scores(bundle: Bundle) -> None:
    """Score one short text with a bundle of any family; a family that can't run raises its own error."""
    Scorer(bundle, token_budget=64).score(bundle.tokeniser.encode(["a"], with_offsets=True))


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    _finite(ours)
    difference = float((ours - theirs).abs().max())
    if difference > TOLERANCE:
        raise ConversionError(
            f"the bundle's pass and transformers differ by {difference:.2g} on the same weights, {TOLERANCE} is allowed"
        )
    return difference


def _ids(vocab_size: int, length: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.random.default_rng(length).integers(0, vocab_size, length)


def _finite(values: torch.Tensor) -> None:
    if not bool(values.isfinite().all()):
        raise ConversionError("a forward pass over the converted weights gives values that aren't finite")
