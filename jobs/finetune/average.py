"""The mean of the weights of bundles that one recipe made, of other seeds or shares: better than each, at one's cost.

Trainings from the same parent mostly end in one valley, so that the mean of their weights answers better than each of
them (Wortsman et al. 2022, "Model soups"). The greedy recipe of that paper (its recipe 1): the best on the tuning texts
first, then each next one that doesn't make the mean worse there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from jobs.finetune.device import Device, choose_device
from jobs.finetune.exam import Exam
from jobs.finetune.heads import LearntHead
from jobs.finetune.settings import FinetuneError, FinetuneSettings
from jobs.finetune.tuner import Tuner, build_tuner
from models.bundle import TOKENIZER_FILE, Bundle
from models.fetch import fetch

log = logging.getLogger("verbatim.finetune")

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Member:
    """A bundle, what it is worth alone on the tuning texts, and whether it is in the mean."""

    bundle: Bundle
    worth: float
    is_taken: bool


@dataclass(frozen=True)
class Mean:
    """What went into a mean of weights, the best first, and what it is worth."""

    members: list[Member]
    worth: float


def fetch_members(settings: FinetuneSettings, parent: Bundle) -> list[Bundle]:
    """All bundles to average.

    Raises
    ------
    ValueError, OSError : one isn't there, or is of another shape or vocabulary than the parent.
    """
    members = [fetch(reference) for reference in settings.average]
    for one in members:
        if one.spec.architecture != parent.spec.architecture:
            raise FinetuneError(f"average: {one} has another architecture than the parent {parent}")
        if one.spec.files[TOKENIZER_FILE] != parent.spec.files[TOKENIZER_FILE]:
            raise FinetuneError(f"average: {one} has another tokenizer than the parent {parent}")
    return members


def average(members: Sequence[Bundle], heads: Sequence[LearntHead], exam: Exam, device: Device) -> tuple[Tuner, Mean]:
    """The greedy mean, and what was taken.

    Raises
    ------
    FinetuneError : one lacks a head, or has other labels; no text tells which is better.
    """
    if not exam.num_labelled:
        raise FinetuneError("average: no labelled text was kept for tuning; raise tune, or give more texts")
    plain = [replace(head, spec=head.spec.model_copy(update={"temperature": 1.0}), is_known=True) for head in heads]
    states = [_weights(one, plain) for one in members]
    tuner = build_tuner(members[0], plain, 0.0, is_frozen=False).eval().to(choose_device(device))
    alone = [_worth(tuner, [state], exam) for state in states]
    first, *others = sorted(range(len(members)), key=lambda place: -alone[place])
    taken, best = [first], alone[first]
    for place in others:
        worth = _worth(tuner, [states[own] for own in (*taken, place)], exam)
        log.info("mean with %s: %.2f on the tuning texts, without %.2f", members[place], 100 * worth, 100 * best)
        if worth >= best:
            taken, best = [*taken, place], worth
    tuner.load_state_dict(_mean([states[place] for place in taken]))
    return tuner.cpu(), Mean([Member(members[p], alone[p], p in taken) for p in (first, *others)], best)


def _weights(member: Bundle, heads: Sequence[LearntHead]) -> Weights:
    theirs = {head.name: head for head in member.spec.heads}
    for spec in (head.spec for head in heads):
        own = theirs.get(spec.name)
        if own is None or (own.kind, own.labels, own.pooling) != (spec.kind, spec.labels, spec.pooling):
            raise FinetuneError(
                f"average: {member} has no head {spec.name!r} of the labels and kind that the data have"
            )
    return build_tuner(member, heads, 0.0, is_frozen=False).state_dict()


def _worth(tuner: Tuner, states: Sequence[Weights], exam: Exam) -> float:
    tuner.load_state_dict(_mean(states))
    return exam.worth(tuner)


def _mean(states: Sequence[Weights]) -> Weights:
    return {name: torch.stack([state[name] for state in states]).mean(dim=0) for name in states[0]}
