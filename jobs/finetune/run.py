"""A fine-tuning from settings to a bundle in its place: read, learn, calibrate, save, judge, describe, put.

The work folder, beside the output, is named by all that the result depends on: settings, parent, texts and labels. What
stands there is gone on with; when the bundle is in place it is removed. The bundle comes into place whole, and takes an
older one's only with `replace` and only if it isn't clearly worse on a head that both have.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from jobs.evaluate.answers import BundleSystem
from jobs.evaluate.kinds import agreement
from jobs.evaluate.results import Evaluation
from jobs.evaluate.write import write_results
from jobs.finetune.canaries import exposure, plant
from jobs.finetune.card import Report, write_card
from jobs.finetune.data import Data, read_data
from jobs.finetune.judge import is_worse, judge
from jobs.finetune.learn import Learnt, Material, learn, learn_from_few, may_be_few, prepare
from jobs.finetune.membership import membership
from jobs.finetune.settings import FinetuneError, FinetuneSettings
from jobs.finetune.split import DEV
from jobs.finetune.teach import Teacher, ask, check_teachers, fetch_teachers
from jobs.finetune.tuner import Tuner, build_tuner
from models.bundle import CARD_FILE, SPEC_FILE, TOKENIZER_FILE, Bundle, BundleSpec, load_bundle, save_bundle
from models.fetch import fetch, split_reference
from models.heads import HeadSpec, need_offsets
from models.tokeniser import Tokeniser

log = logging.getLogger("verbatim.finetune")

ELSEWHERE = {"output", "name", "replace", "baseline", "threads", "log_every_s", "checkpoint_every_s"}


@dataclass(frozen=True)
class Finished:
    """The new bundle, whether it is in its place, and what its evaluation says."""

    bundle: Bundle
    is_in_place: bool
    evaluation: Evaluation | None


def finetune(settings: FinetuneSettings) -> Finished:
    """Run it all, or what is left of it.

    Raises
    ------
    ValueError, OSError : settings or data that can't be used.
    TrainingError : the loss stopped being a number; the last good checkpoint is kept.
    """
    torch.set_num_threads(settings.threads or len(os.sched_getaffinity(0)))
    parent, output = fetch(settings.bundle), Path(settings.output)
    max_length = _max_length(settings, parent)
    old = _old(output, parent, settings)
    terms = Path(settings.terms).read_text(encoding="utf-8") if settings.terms else ""
    data, teachers = read_data(settings, parent), fetch_teachers(settings)
    check_teachers(teachers, data)
    _check_parent_share(settings, data, parent)
    work = _work_folder(output, settings, [parent, *(one.bundle for one in teachers)], data)
    tokeniser = Tokeniser(parent.folder / TOKENIZER_FILE, max_length)
    planted = plant(data, settings.canaries, settings.seed) if settings.canaries else data
    tuner, learnt = _learn(_material(planted, tokeniser, teachers, settings), parent, settings, work)
    bundle = _save(tuner, learnt, parent, settings, work / "bundle")
    tuner = tuner.half().float()
    evaluation = judge(data, bundle, old, work, settings)
    report = Report(
        name=bundle.spec.name,
        parent=parent,
        teachers=teachers,
        settings=settings,
        data=data,
        learnt=learnt,
        is_moved=not tuner.is_frozen,
        kept=_kept(bundle, parent, data, learnt),
        evaluation=evaluation,
        exposure=exposure(planted, settings.canaries, tuner, tokeniser, settings.seed) if settings.canaries else None,
        membership=membership(data, tuner, tokeniser, settings.seed),
    )
    (bundle.folder / CARD_FILE).write_text(write_card(report) + terms, encoding="utf-8")
    if evaluation is not None:
        write_results(evaluation, bundle, str(bundle.folder))
    if output.exists() and is_worse(evaluation, old):
        log.warning("clearly worse than %s, which stays; the new bundle stands in %s", old, bundle.folder)
        return Finished(bundle, False, evaluation)
    return Finished(_put(bundle.folder, output, work), True, evaluation)


def _old(output: Path, parent: Bundle, settings: FinetuneSettings) -> Bundle:
    """What the new bundle is held against: the one whose place it takes, or its parent."""
    if not output.exists():
        return parent
    if not (output / SPEC_FILE).is_file():
        raise FinetuneError(f"output {output} is there already and is no bundle: choose another folder")
    if not settings.replace:
        raise FinetuneError(f"output {output} holds a bundle already: choose another folder, or replace=true")
    return load_bundle(output)


def _max_length(settings: FinetuneSettings, parent: Bundle) -> int:
    most = parent.spec.architecture.max_length
    if settings.max_length is not None and settings.max_length > most:
        raise FinetuneError(f"max_length {settings.max_length} is over the {most} positions that {parent} has")
    return settings.max_length or parent.spec.max_length


def _check_parent_share(settings: FinetuneSettings, data: Data, parent: Bundle) -> None:
    if settings.parent_share and (new := [head.spec.name for head in data.heads if not head.is_known]):
        raise FinetuneError(f"parent_share: {parent} has no heads {new} to keep a share of; leave it at 0")


def _work_folder(output: Path, settings: FinetuneSettings, bundles: Sequence[Bundle], data: Data) -> Path:
    digests = "\n".join(bundle.digest for bundle in bundles)
    recipe = f"{settings.model_dump_json(exclude=ELSEWHERE)}\n{digests}\n{data.digest()}"
    name = hashlib.sha256(recipe.encode()).hexdigest()[:8]
    work = output.parent / f"{output.name}.work" / name
    work.mkdir(parents=True, exist_ok=True)
    return work


def _material(data: Data, tokeniser: Tokeniser, teachers: Sequence[Teacher], settings: FinetuneSettings) -> Material:
    tokens = tokeniser.encode(data.texts, with_offsets=need_offsets(h.spec for h in data.heads))
    if num_cut := int(tokens.truncated.sum()):
        log.warning("%d texts are over %d tokens and lose their end", num_cut, tokeniser.max_length)
    return prepare(data, tokens, ask(teachers, data, settings))


def _learn(material: Material, parent: Bundle, settings: FinetuneSettings, work: Path) -> tuple[Tuner, Learnt]:
    data = material.data
    if may_be_few(data, settings):
        tuner = build_tuner(parent, data.heads, 0.0, is_frozen=True)
        if (learnt := learn_from_few(tuner, material, settings)) is not None:
            return tuner, learnt
    torch.manual_seed(settings.seed)
    schedule, rank = settings.schedule, settings.adapter.rank if settings.adapter else None
    tuner = build_tuner(parent, data.heads, schedule.dropout, is_frozen=schedule.freeze_trunk, rank=rank)
    return tuner, learn(tuner, material, settings, parent, work)


def _save(tuner: Tuner, learnt: Learnt, parent: Bundle, settings: FinetuneSettings, folder: Path) -> Bundle:
    """Write the bundle; a frozen trunk's tensors and kept heads' are the parent's own, the others in half precision."""
    folder.mkdir(exist_ok=True)
    shutil.copyfile(parent.folder / TOKENIZER_FILE, folder / TOKENIZER_FILE)
    learnt_names = {head.spec.name for head in learnt.heads}
    kept = [head for head in parent.spec.heads if head.name not in learnt_names] if settings.keep_heads else []
    old = parent.tensors()
    tensors = {name: tensor.half() for name, tensor in tuner.head_tensors().items()}
    if tuner.is_frozen:
        tensors |= {name: tensor for name, tensor in old.items() if not name.startswith("heads.")}
    else:
        tensors |= {name: tensor.half() for name, tensor in tuner.trunk_tensors().items()}
    for head in () if tuner.is_adapted else kept:  # adapters find them in their base
        tensors |= {name: t for name, t in old.items() if name.startswith((f"heads.{head.name}.",))}
    spec = BundleSpec(
        name=settings.name or Path(settings.output).name,
        languages=parent.spec.languages,
        max_length=_max_length(settings, parent),
        architecture=parent.spec.architecture,
        heads=(*(head.spec for head in learnt.heads), *kept, *_embedding(settings, tuner, kept)),
        base=f"{split_reference(settings.bundle)[0]}@{parent.digest}" if tuner.is_adapted else None,
        files={},
    )
    return save_bundle(folder, spec, {name: tensor.contiguous() for name, tensor in tensors.items()}, "")


def _embedding(settings: FinetuneSettings, tuner: Tuner, kept: Sequence[HeadSpec]) -> Iterator[HeadSpec]:
    """The head that the settings ask for, unless one is kept; it has no weights."""
    if settings.embedding is not None and all(head.kind != "embedding" for head in kept):
        size = tuner.trunk.arch.hidden_size
        yield HeadSpec(name="embedding", kind="embedding", pooling=settings.embedding, size=size, normalise=True)


def _kept(bundle: Bundle, parent: Bundle, data: Data, learnt: Learnt) -> dict[str, float]:
    """Heads that weren't trained, and on which share of the held-out texts they still answer as before."""
    names = [head.name for head in _untrained(bundle, learnt)]
    texts = [data.texts[row] for row in data.rows(DEV)]
    if not names or not texts:
        return dict.fromkeys(names, np.nan)
    systems = [BundleSystem(b, "fp32", token_budget=4096, device="cpu", threads=1) for b in (bundle, parent)]
    ours, theirs = (system.answer(texts).answers for system in systems)
    return {name: float(agreement(ours[name], theirs[name]).mean()) for name in names}


def _untrained(bundle: Bundle, learnt: Learnt) -> list[HeadSpec]:
    trained = {head.spec.name for head in learnt.heads}
    return [head for head in bundle.spec.heads if head.name not in trained and head.kind != "embedding"]


def _put(folder: Path, output: Path, work: Path) -> Bundle:
    """Into its place by renaming; what stood there goes away afterwards."""
    aside = work / "replaced"
    if output.exists():
        output.rename(aside)
    folder.rename(output)
    shutil.rmtree(work)
    if not any(work.parent.iterdir()):
        work.parent.rmdir()
    bundle = load_bundle(output)
    log.info("bundle %s stands in %s", bundle, output)
    return bundle
