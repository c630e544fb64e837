"""Another bundle's answers in the words of the evaluated one's head, where they can be compared at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jobs.evaluate.answers import Answers, Pass
from jobs.evaluate.kinds import label_names
from models.heads import HeadSpec


def aligned(head: HeadSpec, others: Sequence[HeadSpec], answered: Pass) -> Answers | str:
    """Answers with labels in the order of `head`, or the reason why there are none.

    A label that the other bundle doesn't know has probability 0; one that only it knows can't be compared.
    """
    other = next((one for one in others if one.name == head.name), None)
    if other is None or other.kind != head.kind:
        return f"it has no head {head.name!r} of kind {head.kind}"
    ours, theirs = label_names(head), label_names(other)
    if strange := [label for label in theirs if label not in ours]:
        return f"its head {head.name!r} has the labels {strange}, which this one hasn't"
    answers, place = answered.answers[head.name], np.array([ours.index(label) for label in theirs])
    if answers.probs_nc is None:
        return answers
    probs_nc = np.zeros((len(answers.probs_nc), len(ours)))
    probs_nc[:, place] = answers.probs_nc
    if head.kind != "multi":
        return Answers(place[answers.labels], probs_nc)
    chosen_nc = np.zeros(probs_nc.shape, np.bool_)
    chosen_nc[:, place] = answers.labels
    return Answers(chosen_nc, probs_nc)
