"""What the scorer itself says of the texts, and which answers of a server say something else.

A tolerance a precision, on probabilities: a text's batch differs from the scorer's, so its last bits may.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from jobs.benchmark.serve.dialect import Dialect, ProbRow
from jobs.benchmark.serve.load import Outcome
from models.bundle import Bundle
from models.precision import Precision
from models.scorer import Scorer

TOLERANCES: Mapping[str, float] = {"fp32": 1e-5, "bf16": 2e-2, "int8": 2e-2, "fp8": 2e-2}
PEERS_TOLERANCE = 1e-3  # fp32 of another library
_BUDGET = 4096
_NO_ANSWER = float("inf")


@dataclass(frozen=True)
class Truth:
    """Rows of every bundle that may answer, by the bundle's name and digest; `tolerance` of a right answer."""

    rows: dict[str, list[ProbRow]]
    tolerance: float


@dataclass(frozen=True)
class Checked:
    """Answers held against the truth: how many are wrong, the largest difference, and how many each bundle gave."""

    num_wrong: int
    max_difference: float
    by_bundle: Mapping[str, int]


def score(bundle: Bundle, texts: Sequence[str], precision: str) -> list[ProbRow]:
    """The `prob_…` columns of each text."""
    scorer = Scorer(bundle, token_budget=_BUDGET, precision=cast(Precision, precision))
    table = scorer.score(bundle.tokeniser.encode(list(texts)))
    rows: list[ProbRow] = table.select([name for name in table.column_names if name.startswith("prob_")]).to_pylist()
    return rows


def check(outcomes: Sequence[Outcome], size: int, dialect: Dialect, truth: Truth) -> Checked:
    """Read every answer with status 200; body n asked for the n-th `size` texts."""
    differences, by_bundle = [0.0], dict.fromkeys(truth.rows, 0)
    for outcome in outcomes:
        if outcome.status == 200:
            bundle, difference = _difference(outcome, size, dialect, truth)
            differences.append(difference)
            if bundle in by_bundle:
                by_bundle[bundle] += 1
    num_wrong = sum(difference > truth.tolerance for difference in differences)
    return Checked(num_wrong, max(differences), by_bundle)


def _difference(outcome: Outcome, size: int, dialect: Dialect, truth: Truth) -> tuple[str, float]:
    """Largest difference of a probability; infinite if the answer isn't one for these texts."""
    try:
        bundle, given = dialect.read(json.loads(outcome.answer))
        right = truth.rows[bundle][outcome.body * size : (outcome.body + 1) * size]
        if len(given) != len(right) or not all(given):
            return bundle, _NO_ANSWER
        pairs = zip(given, right, strict=True)
        return bundle, max(abs(value - row[name]) for answer, row in pairs for name, value in answer.items())
    except (ValueError, KeyError, TypeError, IndexError):
        return "", _NO_ANSWER
