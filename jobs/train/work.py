"""How many operations a step of pretraining takes: the least that the model needs, times two for a multiply-add.

Backward takes twice what forward takes (Narayanan et al. 2021, section 3). Norms, activations, the softmax over the
words and the optimizer count for nothing, so all of them lower the share of the limit that a run reports.
"""

from __future__ import annotations

from models.architecture import Architecture

PASSES = 3  # forward, and backward for inputs and for weights


def training_flops(arch: Architecture, num_tokens: int, num_squares: int, num_words: int, *, is_causal: bool) -> int:
    """Operations of a step over packed texts.

    Parameters
    ----------
    num_squares : sum of the squares of the texts' lengths; causal attention needs half of it.
    num_words : words that are told, each out of the whole vocabulary.
    """
    trunk = arch.flops(num_tokens, num_squares // 2 if is_causal else num_squares)
    transform = 0 if is_causal else 2 * arch.hidden_size**2 * num_words
    decoder = 2 * arch.hidden_size * arch.vocab_size * num_words
    return PASSES * (trunk + transform + decoder)
