"""A whole training run: tokenizer, pretraining, fine-tuning, bundle; each goes on where it stopped.

Every stage leaves its result in the work folder under a name that follows from all settings it depends on. What stands
there is read instead of made, so a re-run goes on where it stopped, a changed fine-tuning keeps its pretraining, and
results of two recipes can't mix. Given up: changed data under the same names isn't noticed; use another work folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from tokenizers import Tokenizer

from jobs.train.calibrate import calibrate, measure_set
from jobs.train.card import Report, TokenizerReport, write_card
from jobs.train.corpus import Corpus, encode, examples, read_corpus, write_corpus
from jobs.train.finetune import finetune_loss
from jobs.train.learner import Learner
from jobs.train.loop import Clock, Course, run_stage
from jobs.train.masking import Vocabulary
from jobs.train.plan import plan_steps
from jobs.train.pretrain import pretrain_loss
from jobs.train.sets import Example
from jobs.train.settings import TrainSettings
from jobs.train.tokenizer import UNKNOWN, train_tokenizer
from jobs.train.vectors import word_frequency, word_vectors
from models.architecture import Architecture
from models.bundle import TOKENIZER_FILE, Bundle, BundleSpec, save_bundle
from models.masking import PLACEHOLDERS
from models.tokeniser import Tokeniser

log = logging.getLogger(__name__)

LANGUAGES = ("zh", "en")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def train(settings: TrainSettings, config: str) -> Bundle:
    """Run all stages, or what is left of them, and write the bundle; its card names the file `config`.

    Raises
    ------
    ValueError : a set is missing or has no text.
    TrainingError : the loss stopped being a number.
    """
    torch.set_num_threads(settings.threads)
    run = _Run(settings)
    learner = run.finetune(run.pretrain())
    return run.bundle(learner, config)


class _Run:
    """The stages of one run, with what they share."""

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings
        self.data, self.work = Path(settings.data), Path(settings.work)
        self._texts: dict[str, list[Example]] = {}
        self.clock = Clock(settings.log_every_s, settings.checkpoint_every_s)

    @cached_property
    def tokenizer_path(self) -> Path:
        return self._make("tokenizer", ".json", self._write_tokenizer)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.tokenizer_path))

    @cached_property
    def tokeniser(self) -> Tokeniser:
        return Tokeniser(self.tokenizer_path, self.settings.max_length)

    @cached_property
    def architecture(self) -> Architecture:
        return Architecture(
            vocab_size=self.tokenizer.get_vocab_size(),
            max_position_embeddings=self.settings.max_length,
            **self.settings.shape.model_dump(),
        )

    def pretrain(self) -> Learner:
        stage, seed = self.settings.pretrain, self.settings.seed
        torch.manual_seed(seed)
        learner = Learner(self.architecture, stage.dropout)
        corpus, path = self._corpus("pretrain", stage.sets), self._path("pretrain", ".pt")
        if not path.is_file():
            arch = self.architecture
            vectors_vd = word_vectors(corpus, arch.vocab_size, arch.hidden_size, seed)
            learner.start_from(vectors_vd, word_frequency(corpus, arch.vocab_size))
        steps = plan_steps(corpus, stage.sets, stage.epochs, stage.token_budget, seed)
        loss_of = pretrain_loss(corpus, Vocabulary.of(self.tokenizer), stage.mask_rate, DTYPES[self.settings.precision])
        run_stage(learner, Course(steps, loss_of, stage, seed), path, self.clock)
        return learner

    def finetune(self, pretrained: Learner) -> Learner:
        stage, seed = self.settings.finetune, self.settings.seed + 1
        torch.manual_seed(seed)
        learner = Learner(self.architecture, stage.dropout)
        learner.load_state_dict(pretrained.state_dict())
        corpus = self._corpus("finetune", stage.sets)
        steps = plan_steps(corpus, stage.sets, stage.epochs, stage.token_budget, seed)
        vocabulary, precision = Vocabulary.of(self.tokenizer), DTYPES[self.settings.precision]
        loss_of = finetune_loss(corpus, vocabulary, stage, self.settings.max_length, precision)
        run_stage(learner, Course(steps, loss_of, stage, seed), self._path("finetune", ".pt"), self.clock)
        return learner

    def bundle(self, learner: Learner, config: str) -> Bundle:
        learner = learner.half().float()  # figures are those of the weights that are shipped
        heads, head_reports = calibrate(learner, self._dev(self.settings.calibrate_on))
        report = Report(
            settings=self.settings,
            config=config,
            sets=tuple(measure_set(learner, self._dev([name]), self.settings.seed) for name in self.settings.report_on),
            heads=head_reports,
            tokenizer=self._tokenizer_report(),
            num_parameters=sum(tensor.numel() for tensor in learner.bundle_tensors().values()),
        )
        spec = BundleSpec(
            name=self.settings.name,
            languages=LANGUAGES,
            max_length=self.settings.max_length,
            architecture=self.architecture,
            heads=heads,
            files={},
        )
        folder = Path(self.settings.bundle)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.tokenizer_path, folder / TOKENIZER_FILE)
        bundle = save_bundle(folder, spec, learner.bundle_tensors(), write_card(report))
        log.info("bundle %s stands in %s", bundle, folder)
        return bundle

    def _tokenizer_report(self) -> TokenizerReport:
        ids = self._corpus("finetune", self.settings.finetune.sets).ids
        unknown = ids == self.tokenizer.token_to_id(UNKNOWN)
        return TokenizerReport(self.tokenizer.get_vocab_size(), len(ids), float(unknown.mean()))

    def _write_tokenizer(self, path: Path) -> None:
        texts = (example.text for name in self.settings.pretrain.sets for example in self._examples(name))
        train_tokenizer(texts, self.settings.vocab_size).save(str(path))

    def _corpus(self, stage: str, sets: Iterable[str]) -> Corpus:
        """The token ids and labels that a stage reads."""
        return read_corpus(self._make(stage, ".parquet", lambda path: write_corpus(self._encode(sets), path)))

    def _encode(self, sets: Iterable[str]) -> Corpus:
        return encode({name: self._examples(name) for name in sets}, self.tokeniser)

    def _examples(self, name: str) -> list[Example]:
        """A set's texts, read once for the tokenizer and the stages: masking is the slow part."""
        if name not in self._texts:
            self._texts[name] = list(examples(name, self.data, "train"))
        return self._texts[name]

    def _dev(self, names: Sequence[str]) -> Corpus:
        return encode({name: list(examples(name, self.data, "dev")) for name in names}, self.tokeniser)

    def _make(self, stage: str, suffix: str, write: Callable[[Path], None]) -> Path:
        """The stage's result, made now if it isn't there; put in place whole."""
        path = self._path(stage, suffix)
        if not path.is_file():
            log.info("%s begins", stage)
            self.work.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            write(part)
            part.replace(path)
        return path

    def _path(self, stage: str, suffix: str) -> Path:
        return self.work / f"{stage}-{self._recipe(stage)}{suffix}"

    def _recipe(self, stage: str) -> str:
        """Digest of all settings that a stage's result depends on, those of the stages before it included."""
        settings = self.settings
        parts: dict[str, object] = {
            "tokenizer": [list(settings.pretrain.sets), settings.data, settings.vocab_size, list(PLACEHOLDERS)],
            "pretrain": [
                settings.max_length,
                settings.seed,
                settings.precision,
                settings.shape.model_dump(),
                settings.pretrain.model_dump(),
            ],
            "finetune": settings.finetune.model_dump(),
        }
        names = list(parts)
        on = {name: parts[name] for name in names[: names.index(stage) + 1]}
        return hashlib.sha256(json.dumps(on).encode()).hexdigest()[:8]
