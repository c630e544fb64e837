"""Can who holds a bundle tell whether a text was trained on? The attack by loss (Yeom et al. 2018, section 3.2).

The attacker has a text and its label, and says "trained on" where the bundle finds that label likely. It is tried on as
many texts of the training part as held-out ones from each set, so that a set in itself gives nothing away. What is
reported are the pairs of one of each that it gets right, and, as a mean hides texts that are remembered well, how many
it finds while one held-out text in a hundred is taken for a trained one (Carlini et al. 2022, section III). Measured on
every head of one label a text. Held-out texts of another time or place than those trained on tell themselves apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.finetune.data import Data
from jobs.finetune.exam import Outputs, head_outputs
from jobs.finetune.split import DEV, TRAIN
from jobs.finetune.tuner import Tuner
from models.tokeniser import Tokeniser

MOST = 4000  # texts of each sort, over all sets: an interval of some 1.2 points to each side
FEWEST = 100  # of each sort: with fewer, one in a hundred means nothing
FALSE_ALARMS = 0.01

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Membership:
    """How well an attacker tells `num_texts` texts trained on from as many held out, by one head's answers.

    pairs_right : share of pairs, with its 95 % interval; chance is 0.5.
    found : share of texts trained on that are found at `FALSE_ALARMS`, which is what chance finds too.
    """

    head: str
    num_texts: int
    pairs_right: float
    low: float
    high: float
    found: float


def membership(data: Data, tuner: Tuner, tokeniser: Tokeniser, seed: int) -> list[Membership]:
    """One for each head of one label a text that enough texts of both sorts have."""
    attacked = []
    for spec in tuner.specs:
        if spec.kind in ("single", "ordinal"):
            trained, held = _equally_many(data, spec.name, np.random.default_rng((seed, 3)))
            if len(trained) >= FEWEST:
                rows = np.concatenate([trained, held])
                outputs_nc = head_outputs(tuner, spec.name, [data.texts[row] for row in rows], tokeniser)
                odds = _log_odds(outputs_nc, data.labels[spec.name].truth[rows])
                attacked.append(attack(spec.name, odds[: len(trained)], odds[len(trained) :]))
    return attacked


def attack(head: str, trained: NDArray[np.float32], held: NDArray[np.float32]) -> Membership:
    """From the log odds of the own labels of N texts of each sort; the interval is DeLong's (1988)."""
    trained, held = np.sort(trained), np.sort(held)
    beaten, beating = _shares_below(trained, held), 1 - _shares_below(held, trained)
    right, error = beaten.mean(), np.sqrt(beaten.var() / len(trained) + beating.var() / len(held))
    alarm = np.quantile(held, 1 - FALSE_ALARMS, method="higher")
    low, high = np.clip([right - 1.96 * error, right + 1.96 * error], 0, 1)
    return Membership(head, len(trained), float(right), float(low), float(high), float((trained > alarm).mean()))


def _shares_below(of: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """For each value the share of others (sorted) below it, equals half."""
    below = np.searchsorted(others, of, "left") + np.searchsorted(others, of, "right")
    return np.asarray(below / (2 * len(others)), np.float64)


def _equally_many(data: Data, head: str, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """As many rows of the training part as held-out ones of each set, drawn among those that the head has labels of."""
    most = MOST // len(data.names)
    trained: list[Rows] = []
    held: list[Rows] = []
    for place in range(len(data.names)):
        known = (data.sets == place) & data.labels[head].known
        sides = [np.flatnonzero(known & (data.parts == part)) for part in (TRAIN, DEV)]
        num = min(most, *map(len, sides))
        for side, chosen in zip(sides, (trained, held), strict=True):
            chosen.append(rng.choice(side, num, replace=False))
    return np.concatenate(trained), np.concatenate(held)


def _log_odds(outputs_nc: Outputs, truth: NDArray[np.int64]) -> NDArray[np.float32]:
    """Of each text's own label against all others: its probability, stretched where that is next to 1."""
    own = np.arange(len(truth)), truth
    others_nc = outputs_nc.copy()
    others_nc[own] = -np.inf
    return np.asarray(outputs_nc[own] - np.logaddexp.reduce(others_nc, axis=1), np.float32)
