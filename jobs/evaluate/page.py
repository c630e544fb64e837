"""The evaluation as one HTML page that needs nothing else: style and drawings are in it, no script, nothing fetched.

Everything that comes from data goes through the template's automatic escaping, drawings included.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from jobs.evaluate import wording
from jobs.evaluate.results import Bin, Evaluation

TEMPLATE = "page.html.j2"
PLOT = 200.0  # side of the calibration plot, in its own units
MAX_MATRIX = 12  # labels; of more, the commonest mistakes are listed instead of a matrix


def html_page(evaluation: Evaluation) -> str:
    """The whole page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    words = (
        *(wording.interval, wording.gain, wording.number, wording.verdict, wording.facts, wording.head_facts),
        *(wording.rivals, wording.slice_systems, wording.matrix, wording.confusions),
    )
    environment.globals.update({word.__name__: word for word in words})
    environment.globals.update(metrics=wording.METRICS, dots=_dots, shade=_shade, plot=PLOT, max_matrix=MAX_MATRIX)
    page: str = environment.get_template(TEMPLATE).render(
        evaluation=evaluation, overview=list(wording.overview(evaluation))
    )
    return page


def _dots(bins: tuple[Bin, ...]) -> list[tuple[float, float, float, Bin]]:
    """Where each bin's dot stands in the plot, and its radius: the area goes with its texts."""
    most = max(one.num_texts for one in bins)
    return [(PLOT * one.sure, PLOT * (1 - one.right), 2.5 + 6.5 * (one.num_texts / most) ** 0.5, one) for one in bins]


def _shade(count: int, row: list[tuple[str, int]]) -> str:
    """How dark a cell of the confusion matrix is: its share of its row."""
    return f"{0.55 * count / max(sum(other for _, other in row), 1):.3f}"
