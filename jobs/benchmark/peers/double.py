"""A contender with known answers and no libraries, for tests of everything around contenders."""

from __future__ import annotations

import numpy as np

from jobs.benchmark.contender import Answer, Order, Setting
from jobs.benchmark.work import Work


class Known:
    """Says for a text of n tokens that its first class has probability 1 / n; pads every text to 10 slots or more."""

    settings = (Setting(1), Setting(2))
    note = "a double"

    def __init__(self, order: Order, calibration: Work) -> None:
        print("libraries print to standard output when they load")  # noqa: T201 - must not break the protocol

    def score(self, work: Work, setting: Setting) -> Answer:
        """The known answers."""
        first = 1 / work.lengths.astype(np.float32)
        return Answer(np.stack([first, 1 - first], axis=1), int(np.maximum(work.lengths, 10).sum()))


class Broken(Known):
    """Can't be loaded."""

    def __init__(self, order: Order, calibration: Work) -> None:
        raise ValueError("model_type 'double' is not supported")
