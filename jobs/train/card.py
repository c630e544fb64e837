"""The model card: what a bundle is, what it was trained on and under which terms, and what it can and can't do.

Written from the run's own settings and figures, so it can't fall behind them. A figure that misses its floor says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from jobs.train.measure import Figure
from jobs.train.sets import SETS
from jobs.train.settings import StageSettings, TrainSettings

# TF-IDF n-grams with logistic regression, one seed, as the project's data notes give them (percent).
FLOORS = {
    "chnsenticorp": 91.8,
    "amazon_polarity_10k": 88.9,
    "sst2": 81.2,
    "waimai_10k": 89.7,
    "online_shopping_10_cats": 93.8,
}

FIRST_BAR = {"chnsenticorp": 89.8, "amazon_polarity_10k": 86.9}  # two points under the floor


@dataclass(frozen=True)
class SetReport:
    """Figures on one set's dev part."""

    name: str
    two_way: Figure
    three_way: Figure | None
    stars_error: Figure | None


@dataclass(frozen=True)
class HeadReport:
    """A head's temperature, and its calibration error without and with it."""

    name: str
    labels: tuple[str, ...]
    temperature: float
    error_before: float
    error_after: float


@dataclass(frozen=True)
class TokenizerReport:
    """The vocabulary, over the training texts."""

    vocab_size: int
    num_tokens: int
    unknown_share: float


@dataclass(frozen=True)
class Report:
    """All that the card says."""

    settings: TrainSettings
    config: str  # the file that makes the bundle
    sets: tuple[SetReport, ...]
    heads: tuple[HeadReport, ...]
    tokenizer: TokenizerReport
    num_parameters: int


def write_card(report: Report) -> str:
    """The card as Markdown."""
    sections = (_what, _figures, _calibration, _recipe, _data, _limits)
    return "\n".join(line for section in sections for line in (*section(report), ""))


def _what(report: Report) -> Iterator[str]:
    settings, shape = report.settings, report.settings.shape
    yield f"# {settings.name}"
    yield ""
    yield (
        f"A small Megatron-BERT (pre-LN) for feedback in Chinese and English, trained from scratch: "
        f"{shape.num_hidden_layers} layers x {shape.hidden_size}, {report.num_parameters / 1e6:.1f} M parameters in "
        f"half precision, at most {settings.max_length} tokens a text."
    )
    yield ""
    for head in report.heads:
        yield f"- `{head.name}`: {', '.join(head.labels)}"
    yield ""
    yield "Made by one command, which goes on where it stopped:"
    yield ""
    yield f"    python -m jobs.train {report.config}"
    yield ""
    yield f"Seed {settings.seed}. Measured on {datetime.now(UTC):%Y-%m-%d}. Licence: Apache-2.0; terms of data below."


def _figures(report: Report) -> Iterator[str]:
    yield "## Figures"
    yield ""
    yield (
        "On the dev parts, which nothing was trained on, with 95 % intervals (bootstrap over texts). Two-way: neutral "
        "left out on both sides. Floor: TF-IDF n-grams with logistic regression, trained on the set itself. The "
        "temperatures are fitted on half of dev; they change no answer, only how sure it sounds."
    )
    yield ""
    yield "| set | texts | two-way accuracy % | floor % | against floor | three-way accuracy % | stars, mean error |"
    yield "| --- | ---: | --- | ---: | --- | --- | --- |"
    for one in report.sets:
        floor = FLOORS.get(one.name)
        yield (
            f"| {one.name}{'' if SETS[one.name].may_train else ' (never trained on)'} | {one.two_way.num_texts:,} "
            f"| {_percent(one.two_way)} | {floor or ''} | {_against(one.two_way, floor)} "
            f"| {_percent(one.three_way)} | {_plain(one.stars_error)} |"
        )
    yield ""
    for one in report.sets:
        if one.name in FIRST_BAR:
            gap = 100 * one.two_way.value - FIRST_BAR[one.name]
            reached = "reached" if gap >= 0 else f"missed by {-gap:.1f} points"
            yield f"- First bar on {one.name}, {FIRST_BAR[one.name]} %: {reached}."


def _against(figure: Figure, floor: float | None) -> str:
    """Plain words on a figure's distance from its floor."""
    if floor is None:
        return ""
    gap = 100 * figure.value - floor
    clear = 100 * figure.low > floor or 100 * figure.high < floor
    side = "above" if gap > 0 else "below"
    return f"{abs(gap):.1f} {side}" + ("" if clear else " (interval spans it)")


def _calibration(report: Report) -> Iterator[str]:
    yield "## Calibration"
    yield ""
    yield f"Over texts with one right answer, on the other half of dev of {', '.join(report.settings.calibrate_on)}."
    yield ""
    yield "| head | temperature | calibration error without % | with % |"
    yield "| --- | ---: | ---: | ---: |"
    for head in report.heads:
        yield (f"| {head.name} | {head.temperature} | {100 * head.error_before:.1f} | {100 * head.error_after:.1f} |")


def _recipe(report: Report) -> Iterator[str]:
    settings, words = report.settings, report.tokenizer
    yield "## Recipe"
    yield ""
    yield (
        f"1. WordPiece, {words.vocab_size:,} pieces: NFKC, lower case, each Han character alone. Over the texts read "
        f"({words.num_tokens / 1e6:.1f} M tokens) {100 * words.unknown_share:.4f} % are unknown."
    )
    yield "2. Word vectors from counts (PPMI, singular value decomposition) as the first embeddings."
    yield f"3. Masked-language pretraining, whole words: {_stage(settings.pretrain)}."
    yield (
        f"4. Fine-tuning of all heads: {_stage(settings.finetune)}; the masked share falls to 0, the masked-language "
        f"loss stays with weight {settings.finetune.mlm_weight}, {100 * settings.finetune.join_rate:.0f} % of texts "
        "are joined in pairs (praise and blame together count as neutral)."
    )
    yield "5. One temperature a head."
    yield ""
    yield "Personal data was masked before any text reached the tokenizer or the trunk."


def _stage(stage: StageSettings) -> str:
    return (
        f"{stage.epochs} epochs, {stage.token_budget:,} tokens a step, Muon at {stage.matrix_learning_rate} "
        f"and AdamW at {stage.learning_rate}, "
        f"{100 * stage.mask_rate:.0f} % masked, dropout {stage.dropout}"
    )


def _data(report: Report) -> Iterator[str]:
    stages = [stage.sets for stage in (report.settings.pretrain, report.settings.finetune)]
    yield "## Data, terms, attribution"
    yield ""
    yield "Only the part `train` of sets whose terms allow it. How often an epoch reads each set:"
    yield ""
    yield "| set | source | licence | pretraining | fine-tuning |"
    yield "| --- | --- | --- | ---: | ---: |"
    for name in dict.fromkeys(name for sets in stages for name in sets):
        times = " | ".join(str(sets.get(name, "")) for sets in stages)
        yield f"| {name} | {SETS[name].source} | {SETS[name].licence} | {times} |"
    yield ""
    yield "Changes made: texts were cleaned, masked, cut and tokenised; labels became three polarities and stars."


def _limits(report: Report) -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield from (
        "- Chinese and English only; other languages get an answer that means nothing.",
        "- Sarcasm, comparison with a rival, and praise of one thing inside blame of another are often misread.",
        "- `neutral` is weakly labelled: questions, three-star reviews, office replies and texts of mixed opinion. A "
        "mixed text may come out as neutral or as its louder half.",
        "- Exact stars were seen for clothing reviews in English only; elsewhere stars follow from polarity.",
        f"- Texts over {report.settings.max_length} tokens are judged by their beginning.",
        "- Complaints to offices and banks were all taken for negative, questions to a service desk for neutral.",
        "- Trained on little text with little computing: a first bar, not the best that this program can hold.",
    )


def _percent(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return f"{100 * figure.value:.1f} ({100 * figure.low:.1f}–{100 * figure.high:.1f})"


def _plain(figure: Figure | None) -> str:
    return "" if figure is None else f"{figure.value:.2f} ({figure.low:.2f}–{figure.high:.2f})"
