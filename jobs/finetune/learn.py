"""From labelled texts to a trained tuner: all weights step by step, or with few examples perhaps the head alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from jobs.finetune.calibrate import Calibrated, calibrate
from jobs.finetune.data import Data, label_counts
from jobs.finetune.device import choose_device
from jobs.finetune.exam import Exam, features
from jobs.finetune.fewshot import Examples, learn_few, word_accuracy
from jobs.finetune.settings import FinetuneError, FinetuneSettings
from jobs.finetune.split import TRAIN, TUNE
from jobs.finetune.targets import Target, build_targets
from jobs.finetune.teach import Taught
from jobs.finetune.tuner import Tuner
from jobs.finetune.watch import EarlyStop
from jobs.train.corpus import Corpus, corpus_of, take_tokens
from jobs.train.loop import Clock, Course, Running, Step, run_steps
from jobs.train.masking import Vocabulary, hide
from jobs.train.plan import plan_steps
from jobs.train.tokenizer import MASK
from models.bundle import TOKENIZER_FILE, Bundle
from models.forward import DTYPES
from models.limits import matmul_flops_per_s
from models.packing import pack
from models.precision import Precision, choose_precision
from models.tokeniser import Tokens

log = logging.getLogger("verbatim.finetune")

FEW = 16  # texts a label, at most, for a trial of the few-shot method (NOTES.md)
TOKENS_TO_READ = 2_000_000  # over all epochs: minutes on two cores
MIN_EPOCHS, MAX_EPOCHS = 3, 30
TEXTS_A_STEP = 48
CHEAP_STEP, LARGEST_STEP = 2048, 4096  # tokens; below the first the optimizer takes as long as the trunk (NOTES.md)
SMALLEST_STEP, STEPS_AN_EPOCH = 256, 25  # but little data must still make some steps
BACKWARD = 3  # operations of a training step over those of its forward pass (Narayanan et al. 2021, section 3)


@dataclass(frozen=True)
class Learnt:
    """What the card says of the training, and the calibrated heads."""

    method: str
    heads: list[Calibrated]
    losses: list[float]
    worths: list[float]
    is_early: bool
    epochs: int
    tokens_per_s: float
    matmul_share: float
    num_truncated: int


@dataclass(frozen=True)
class Material:
    """The data as the model reads it."""

    data: Data
    tokens: Tokens
    corpus: Corpus
    exam: Exam
    taught: Mapping[str, Taught]


def prepare(data: Data, tokens: Tokens, taught: Mapping[str, Taught]) -> Material:
    """Tokens of all texts as a corpus of those to train on, and an exam of those to tune on.

    taught : what teachers say, by head.
    """
    rows = data.rows(TUNE)
    own = take_tokens(tokens, rows)
    exam = Exam(
        corpus_of(own, data.names, data.sets[rows]),
        own,
        {head.spec.name: data.labels[head.spec.name].take(rows) for head in data.heads},
    )
    return Material(data, tokens, corpus_of(tokens, data.names, data.sets), exam, taught)


def may_be_few(data: Data, settings: FinetuneSettings) -> bool:
    """Whether few-shot is asked for, or worth a trial: one new head of one label a text, and few texts a label.

    Raises
    ------
    FinetuneError : few-shot was asked for and isn't for these heads.
    """
    fits = len(data.heads) == 1 and data.heads[0].spec.kind in ("single", "ordinal") and not data.heads[0].is_known
    if settings.method == "fewshot" and not fits:
        raise FinetuneError("method fewshot learns one new head of one label a text; use method=finetune")
    counts = label_counts(data, data.heads[0], TRAIN)
    fits = fits and settings.adapter is None and not settings.teachers
    is_little = fits and sum(counts.values()) / len(counts) <= FEW
    return settings.method == "fewshot" or (settings.method == "auto" and is_little)


def learn_from_few(tuner: Tuner, material: Material, settings: FinetuneSettings) -> Learnt | None:
    """Train the one head on the trunk's vectors. Texts kept for tuning train too: cross-validation tunes.

    None, unless few-shot was asked for, where the vectors tell less than the bare words: such a trunk must move.
    """
    data, spec = material.data, tuner.specs[0]
    own = data.labels[spec.name]
    rows = np.flatnonzero(np.isin(data.parts, (TRAIN, TUNE)) & own.known)
    tokens = take_tokens(material.tokens, rows)
    tuner.to(choose_device(settings.device))
    corpus = corpus_of(tokens, data.names, data.sets[rows])
    vectors = features(tuner.eval(), corpus)
    tuner.cpu()
    examples = Examples(vectors, own.truth[rows], data.weights[rows], len(spec.labels))
    few, by_words = learn_few(examples, settings.seed), word_accuracy(tokens, examples, settings.seed)
    log.info("cross-validated: the trunk's vectors %.1f %%, bare words %.1f %%", 100 * few.accuracy, 100 * by_words)
    if settings.method == "auto" and few.accuracy < by_words:
        return None
    tuner.heads[spec.name].load_state_dict({"weight": few.head.weight, "bias": few.head.bias})
    exam = Exam(corpus, tokens, {spec.name: own.take(rows)})
    heads = calibrate([spec], [few.logits_nc], exam)
    cut = int(material.tokens.truncated.sum())
    return Learnt("fewshot", heads, [], [], False, 0, np.nan, np.nan, cut)


def learn(tuner: Tuner, material: Material, settings: FinetuneSettings, parent: Bundle, work: Path) -> Learnt:
    """Train step by step, going on from the checkpoint in `work` if there is one.

    Raises
    ------
    TrainingError : the loss stopped being a number.
    """
    schedule, data = settings.schedule, material.data
    rows = data.rows(TRAIN)
    corpus = corpus_of(take_tokens(material.tokens, rows), data.names, data.sets[rows])
    num_tokens = int(corpus.lengths.sum())
    epochs = schedule.epochs or int(np.clip(round(TOKENS_TO_READ / num_tokens), MIN_EPOCHS, MAX_EPOCHS))
    budget = schedule.token_budget or step_tokens(corpus.lengths)
    repeats = {
        name: settings.repeat.get(name, 1.0) for place, name in enumerate(data.names) if (corpus.sets == place).any()
    }
    steps = plan_steps(corpus, repeats, epochs, budget, settings.seed)
    log.info("%d epochs of %d tokens, %d tokens a step, %d steps", epochs, num_tokens, budget, len(steps))
    tuner.to(choose_device(settings.device))
    precision = choose_precision(settings.precision, on_gpu=tuner.device.type == "cuda")
    loss_of = _Loss(material, rows, corpus, _noise(schedule.mask_rate, parent), DTYPES[precision])
    watch = EarlyStop(tuner, material.exam, schedule, epochs, len(steps))
    began = {name: own.clone() for name, own in tuner.state_dict().items()} if settings.parent_share else {}
    optimizer = tuner.optimizer(schedule.learning_rate, schedule.matrix_learning_rate, schedule.layer_decay)
    clock = Clock(settings.log_every_s, settings.checkpoint_every_s)
    course = Course(steps, loss_of, schedule, settings.seed)
    run_steps(tuner, course, Running(tuner, optimizer, watch), work / "train.pt", clock)
    watch.settle()
    if settings.parent_share:
        mix(tuner, began, settings.parent_share)
    matmul_share = _matmul_share(tuner, corpus, watch.tokens_per_s, precision)
    tuner.cpu()
    return Learnt(
        method="finetune",
        heads=calibrate(tuner.specs, material.exam.outputs(tuner), material.exam),
        losses=watch.losses,
        worths=watch.worths,
        is_early=len(watch.losses) < len(steps),
        epochs=epochs,
        tokens_per_s=watch.tokens_per_s,
        matmul_share=matmul_share,
        num_truncated=int(material.tokens.truncated.sum()),
    )


def mix(tuner: Tuner, began: Mapping[str, torch.Tensor], share: float) -> None:
    """Put a share of the weights that it began with into what it learnt (WiSE-FT, Wortsman et al. 2021, equation 1).

    What is in between forgets less of texts unlike those trained on, and mostly knows these as well.
    """
    learnt = tuner.state_dict()
    tuner.load_state_dict({name: own.lerp(began[name], share) for name, own in learnt.items()})


def step_tokens(lengths: NDArray[np.int32]) -> int:
    """Tokens of a step: about 48 texts, no fewer than pay for the optimizer, and some 25 steps an epoch."""
    wanted = float(np.clip(TEXTS_A_STEP * lengths.mean(), CHEAP_STEP, LARGEST_STEP))
    return int(max(SMALLEST_STEP, min(wanted, lengths.sum() / STEPS_AN_EPOCH)))


@dataclass(frozen=True)
class _Noise:
    """Which share of words is hidden at first; no vocabulary: none, as the tokeniser has nothing to hide them with."""

    rate: float
    vocabulary: Vocabulary | None


def _noise(rate: float, parent: Bundle) -> _Noise:
    tokenizer = Tokenizer.from_file(str(parent.folder / TOKENIZER_FILE))
    can_hide = rate > 0 and tokenizer.token_to_id(MASK) is not None
    return _Noise(rate, Vocabulary.of(tokenizer) if can_hide else None)


class _Loss:
    """The loss of a step: every head over the texts that know its label, some words hidden."""

    def __init__(
        self,
        material: Material,
        rows: NDArray[np.int64],
        corpus: Corpus,
        noise: _Noise,
        precision: torch.dtype,
    ) -> None:
        self._rows, self._corpus, self._noise, self._precision = rows, corpus, noise, precision
        self._targets: list[Target] = build_targets(material.data, material.tokens, material.taught)
        self._weights = torch.from_numpy(material.data.weights)

    def __call__(self, tuner: Tuner, step: Step) -> tuple[torch.Tensor, int]:
        lengths, rows = self._corpus.lengths[step.rows], self._rows[step.rows]
        ids = np.concatenate(self._corpus.gather(step.rows))
        if self._noise.vocabulary is not None:
            ids, _ = hide(ids, self._noise.rate * (1 - step.progress), self._noise.vocabulary, step.rng)
        with torch.autocast(tuner.device.type, self._precision, enabled=self._precision != torch.float32):
            outputs = tuner(pack(ids, lengths))
        weights = self._weights[torch.from_numpy(rows)]
        losses = [
            target.head.settings.weight * target.loss(own, rows, lengths, weights)
            for target, own in zip(self._targets, outputs, strict=True)
        ]
        return torch.stack(losses).sum(), len(ids)


def _matmul_share(tuner: Tuner, corpus: Corpus, tokens_per_s: float, precision: Precision) -> float:
    """Share of the machine's matrix-product limit that training reached."""
    lengths = corpus.lengths.astype(np.int64)
    flops = tuner.trunk.arch.flops(int(lengths.sum()), int((lengths**2).sum()))
    times = 1 if tuner.is_frozen else BACKWARD
    limit = matmul_flops_per_s(tuner.trunk.arch, precision, tuner.device.type)
    return times * flops / float(lengths.sum()) * tokens_per_s / (limit or np.nan)
