"""Word embeddings for another vocabulary: what the old one spells is taken over, the rest comes from a second model.

A token of the new vocabulary that the old has too keeps its embedding; one that the old spells in several pieces gets
their mean. Of all others the second model's own embeddings, where there is one, are moved by the linear map that
carries its embeddings of common tokens onto the old ones (Mikolov et al. 2013, the map between languages, with ridge);
else they are drawn at random, as far from the mean as the old ones are.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer

_RIDGE = 0.01  # of the mean square, so that rare directions of the second model aren't blown up
_CONTINUES = "##"


def move_vocabulary(
    old_vd: torch.Tensor, old: Tokenizer, new: Tokenizer, second_ne: torch.Tensor | None, generator: torch.Generator
) -> torch.Tensor:
    """Embeddings (N, D) for the tokens of `new`, from those (V, D) of `old`; `second_ne` (N, E) are another model's."""
    old = Tokenizer.from_str(old.to_str())
    old.no_padding()
    tokens = [token for token, _ in sorted(new.get_vocab().items(), key=lambda pair: pair[1])]
    spelt = [_spell(token, old) for token in tokens]
    known = torch.tensor([bool(pieces) for pieces in spelt])
    moved = _others(old_vd, len(tokens), generator)
    moved[known] = torch.stack([old_vd[pieces].mean(dim=0) for pieces in spelt if pieces])
    if second_ne is not None:
        common = torch.tensor([len(pieces) == 1 for pieces in spelt])
        moved[~known] = _carried(second_ne, moved, common)[~known]
    return moved


def _spell(token: str, old: Tokenizer) -> list[int]:
    """The old pieces of a token; none if it can't be spelt, and of what stands inside words only a piece of its own."""
    vocabulary = old.get_vocab()
    if token in vocabulary:
        return [vocabulary[token]]
    unknown = old.token_to_id(str(getattr(old.model, "unk_token", "")))
    pieces: list[int] = [] if token.startswith((_CONTINUES, "[")) else old.encode(token, add_special_tokens=False).ids
    return [] if unknown in pieces else pieces


def _others(old_vd: torch.Tensor, num: int, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(num, old_vd.shape[1], generator=generator)
    return old_vd.mean(dim=0) + old_vd.std(dim=0) * noise


def _carried(second_ne: torch.Tensor, onto_nd: torch.Tensor, common: torch.Tensor) -> torch.Tensor:
    """All of the second model's embeddings under the map; spread out again to the size of those they join."""
    inputs, mean = second_ne - second_ne[common].mean(dim=0), onto_nd[common].mean(dim=0)
    known, wanted = inputs[common], onto_nd[common] - mean
    square = known.T @ known
    ridge = _RIDGE * square.diagonal().mean() * torch.eye(len(square))
    carried: torch.Tensor = inputs @ torch.linalg.solve(square + ridge, known.T @ wanted)
    carried *= wanted.norm() / carried[common].norm()
    return carried + mean
