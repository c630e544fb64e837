"""How far a student is from its teacher: five ways, each a mean over texts or words.

embedding   one less the cosine of the mapped vector and the teacher's
similarity  squared difference of the cosines between the texts of a step (Tung and Mori 2019); needs no map
words       one less the cosine of a word's mapped last hidden state and the teacher's (tokenisers may differ)
relations   Kullback-Leibler of how words attend to words by query-query, key-key and value-value products of the last
            layer (Wang et al. 2021, MiniLMv2; there of tokens)
logits      Kullback-Leibler of softened answers (Hinton et al. 2015), of several labels binary
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from jobs.distil.settings import LossSettings
from jobs.distil.student import Maps, States
from jobs.distil.teacher import Lesson
from jobs.distil.words import Words, common
from models.heads import HeadSpec

MOST_RELATION_HEADS = 16


@dataclass(frozen=True)
class Meeting:
    """The words of a step that both sides have: their text (W), their place among the student's and the teacher's."""

    texts: NDArray[np.int64]
    ours: NDArray[np.int64]
    theirs: NDArray[np.int64]


def meet(lesson: Lesson, rows: NDArray[np.int64], words: Words) -> Meeting:
    """Find the words of the texts `rows` in the lesson; `words` are the student's."""
    assert lesson.word_bounds is not None
    assert lesson.spans is not None
    bounds = lesson.word_bounds
    places = np.concatenate([np.arange(bounds[row], bounds[row + 1]) for row in rows])
    texts = np.repeat(np.arange(len(rows)), bounds[rows + 1] - bounds[rows])
    ours, theirs = common(words.texts, words.spans, texts, lesson.spans[places])
    return Meeting(words.texts[ours], ours, places[theirs])


@dataclass(frozen=True)
class Asked:
    """A step: texts of the lesson, and their words as the student cuts them (None where no loss reads them)."""

    lesson: Lesson
    rows: NDArray[np.int64]
    words: Words | None


def losses_of(
    maps: Maps, states: States, asked: Asked, wanted: LossSettings, temperature: float
) -> dict[str, torch.Tensor]:
    """Each loss of a weight over 0, unweighted; `states` are the student's, of the texts asked about in their order."""
    lesson, rows, words, device = asked.lesson, asked.rows, asked.words, states.pooled.device

    def theirs(values: torch.Tensor | None, places: NDArray[np.int64]) -> torch.Tensor:
        assert values is not None
        return values[torch.from_numpy(places)].to(device).float()

    found: dict[str, torch.Tensor] = {}
    if wanted.embedding:
        found["embedding"] = cosine_loss(maps.embedding(states.pooled), theirs(lesson.embedding, rows))
    if wanted.similarity:
        found["similarity"] = similarity_loss(states.pooled, theirs(lesson.embedding, rows))
    if wanted.logits:
        found["logits"] = logits_loss(maps.specs, maps.logits(states.pooled), theirs(lesson.logits, rows), temperature)
    if words is None or not len((met := meet(lesson, rows, words)).ours):  # texts of a step may share no word
        return found
    ours = torch.from_numpy(met.ours).to(device)
    if wanted.words:
        own_wd = words.mean(states.hidden)[ours]
        found["words"] = cosine_loss(maps.words(own_wd), theirs(lesson.words, met.theirs))
    if wanted.relations:
        own_wd = words.mean(states.qkv)[ours]
        found["relations"] = relation_loss(own_wd, theirs(lesson.relations, met.theirs), met.texts)
    return found


def total(found: Mapping[str, torch.Tensor], wanted: LossSettings) -> torch.Tensor:
    """The weighted sum."""
    return torch.stack([torch.zeros(()), *((getattr(wanted, name) * loss).cpu() for name, loss in found.items())]).sum()


def cosine_loss(ours_nd: torch.Tensor, theirs_nd: torch.Tensor) -> torch.Tensor:
    """0 where they point the same way, 2 where opposite."""
    return 1 - functional.cosine_similarity(ours_nd, theirs_nd, dim=1).mean()


def similarity_loss(ours_bd: torch.Tensor, theirs_be: torch.Tensor) -> torch.Tensor:
    """The two may have different sizes."""
    ours, theirs = functional.normalize(ours_bd, dim=1), functional.normalize(theirs_be, dim=1)
    return (ours @ ours.T - theirs @ theirs.T).square().mean()


def logits_loss(
    specs: Sequence[HeadSpec], ours_bc: torch.Tensor, theirs_bc: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Mean over heads; times the square of the temperature, so that it doesn't change the gradients' size."""
    sizes = [len(spec.labels) for spec in specs]
    pairs = zip(specs, torch.split(ours_bc, sizes, dim=1), torch.split(theirs_bc, sizes, dim=1), strict=True)
    losses = [_head_loss(spec, ours / temperature, theirs / temperature) for spec, ours, theirs in pairs]
    return temperature**2 * torch.stack(losses).mean()


def _head_loss(spec: HeadSpec, ours_bc: torch.Tensor, theirs_bc: torch.Tensor) -> torch.Tensor:
    if spec.kind == "multi":
        ours_bc, theirs_bc = (torch.stack([own, -own], dim=-1).flatten(0, 1) for own in (ours_bc, theirs_bc))
        ours, theirs = functional.logsigmoid(ours_bc), functional.logsigmoid(theirs_bc)
    else:
        ours, theirs = functional.log_softmax(ours_bc, dim=1), functional.log_softmax(theirs_bc, dim=1)
    return functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def relation_loss(ours_wd: torch.Tensor, theirs_we: torch.Tensor, texts_w: NDArray[np.int64]) -> torch.Tensor:
    """Both hold query, key and value side by side; words stand text by text. Mean over words and the three."""
    num_heads = math.gcd(ours_wd.shape[1] // 3, theirs_we.shape[1] // 3, MOST_RELATION_HEADS)
    text, place = np.unique(texts_w, return_inverse=True)[1], _places(texts_w)
    own, their = (_relations(states, num_heads, text, place) for states in (ours_wd, theirs_we))
    return functional.kl_div(own, their, reduction="none", log_target=True).sum(-1)[:, :, text, place].mean()


def _places(texts_w: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each word, how many of its text stand before it."""
    counts = np.unique(texts_w, return_counts=True)[1]
    places: NDArray[np.int64] = np.arange(len(texts_w)) - np.repeat(np.cumsum(counts) - counts, counts)
    return places


def _relations(
    states_wd: torch.Tensor, num_heads: int, text: NDArray[np.int64], place: NDArray[np.int64]
) -> torch.Tensor:
    """(3, H, B, S, S) log shares of each word's attention; words that aren't there get next to nothing."""
    padded = states_wd.new_zeros(text.max() + 1, place.max() + 1, states_wd.shape[1])
    is_there = torch.zeros(padded.shape[:2], dtype=torch.bool, device=states_wd.device)
    padded[text, place], is_there[text, place] = states_wd, True
    parts = padded.view(*padded.shape[:2], 3, num_heads, -1).permute(2, 3, 0, 1, 4)
    scores = parts @ parts.transpose(-1, -2) / math.sqrt(parts.shape[-1])
    return functional.log_softmax(scores.masked_fill(~is_there[:, None, :], -1e4), dim=-1)
