"""First word vectors from plain counts, so that pretraining starts with words of like use near each other.

Positive pointwise mutual information of words within `WINDOW` tokens of one text, cut to D dimensions by a randomised
singular value decomposition (Levy and Goldberg 2014). A minute on two cores for 16,000 words. Given up: memory
quadratic in the vocabulary, 4 V^2 bytes a matrix; the process stands at 6.5 GB at 16,000 words.
"""

from __future__ import annotations

import numpy as np
import torch

from jobs.train.corpus import Corpus

WINDOW = 4
SMOOTHING = 0.75  # of the context's frequency: rare contexts else look too telling
STD = 0.05  # over twice the usual, as the tied decoder starts from these vectors too


def word_frequency(corpus: Corpus, vocab_size: int) -> torch.Tensor:
    """(V,) share of each word among all tokens, none 0."""
    counts_v = torch.from_numpy(np.bincount(corpus.ids, minlength=vocab_size)).float() + 1
    return counts_v / counts_v.sum()


def word_vectors(corpus: Corpus, vocab_size: int, dim: int, seed: int) -> torch.Tensor:
    """V x D vectors of standard deviation `STD`; words never seen get zeros."""
    torch.manual_seed(seed)
    pmi_vv = _positive_pmi(_counts(corpus, vocab_size))
    left_vd, scale_d, _ = torch.svd_lowrank(pmi_vv, q=dim, niter=3)
    vectors_vd = left_vd * scale_d.sqrt()
    return vectors_vd * (STD / vectors_vd.std())


def _counts(corpus: Corpus, vocab_size: int) -> torch.Tensor:
    """V x V times that two words stand within the window, near ones counting more."""
    counts = torch.zeros(vocab_size * vocab_size)
    ids = torch.from_numpy(corpus.ids.astype(np.int64))
    text = torch.from_numpy(np.repeat(np.arange(len(corpus)), corpus.lengths))
    for distance in range(1, WINDOW + 1):
        together = text[:-distance] == text[distance:]
        pairs = (ids[:-distance] * vocab_size + ids[distance:])[together]
        places, times = torch.unique(pairs, return_counts=True)
        counts[places] += times / distance
    square_vv = counts.view(vocab_size, vocab_size)
    return square_vv + square_vv.T


def _positive_pmi(counts_vv: torch.Tensor) -> torch.Tensor:
    word_v = counts_vv.sum(dim=1)
    context_v = word_v**SMOOTHING
    expected_vv = torch.outer(word_v, context_v / context_v.sum())
    return torch.where(counts_vv > 0, (counts_vv / expected_vv.clamp_min(1e-9)).log().clamp_min(0), 0.0)
