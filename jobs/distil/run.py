"""A distillation from settings to a bundle in its place: read, ask the teacher, learn, save, describe, put.

The work folder, beside the output, is named by all that the result depends on; what stands there is gone on with, and
it is removed when the bundle is in its place. The teacher's answers have a folder of their own in it, named by teacher,
texts and what was asked, so that another schedule asks nothing again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from jobs.distil.card import Asked, Report, write_card
from jobs.distil.learn import Material, learn
from jobs.distil.settings import MAIN, DistilError, DistilSettings, LossSettings
from jobs.distil.student import Origin, Student, build_student, find_origin
from jobs.distil.teacher import Lesson, Teacher, ask, read_lesson
from jobs.distil.texts import read_texts
from jobs.finetune.device import choose_device
from models.bundle import TOKENIZER_FILE, Bundle, BundleSpec, load_bundle, save_bundle
from models.fetch import fetch
from models.precision import Precision, choose_precision

log = logging.getLogger("verbatim.distil")

ELSEWHERE = {"output", "name", "credit", "languages", "threads", "log_every_s", "checkpoint_every_s"}


def distil(settings: DistilSettings) -> Bundle:
    """Run it all, or what is left of it.

    Raises
    ------
    ValueError, OSError : settings, teacher, student or texts that can't be used.
    TrainingError : the loss stopped being a number; the last good checkpoint is kept.
    """
    torch.set_num_threads(settings.threads or len(os.sched_getaffinity(0)))
    output = Path(settings.output)
    if output.exists():
        raise DistilError(f"output {output} is there already: choose another folder")
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, on_gpu=device.type == "cuda")
    bundles = {name: fetch(one.teacher) for name, one in settings.lessons.items()}
    origin = find_origin(settings.student, bundles[MAIN])
    texts = {name: read_texts(one, settings.seed) for name, one in settings.lessons.items()}
    works = output.parent / f"{output.name}.work"
    teachers, materials = {}, {}
    for name, one in settings.lessons.items():
        teacher = Teacher(bundles[name], one.losses, precision, device)
        lesson = _lesson(teacher, texts[name], works, one.losses, precision)
        tokens = origin.tokeniser.encode(texts[name], with_offsets=one.losses.need_words)
        teachers[name], materials[name] = (lesson.size, teacher.heads), Material(tokens, lesson)
    torch.manual_seed(settings.seed)
    student = build_student(origin, teachers, settings.schedule.dropout, texts[MAIN]).to(device)
    named = [part for name, bundle in bundles.items() for part in (name, bundle.digest, *texts[name])]
    work = works / _digest(settings.model_dump_json(exclude=ELSEWHERE), origin.digest, *named)
    work.mkdir(exist_ok=True)
    learnt = learn(student, materials, settings, precision, work)
    asked = {
        name: Asked(bundles[name], len(texts[name]), material.tokens.num_tokens) for name, material in materials.items()
    }
    report = Report(settings, origin, student.bundle_heads, learnt, asked)
    _save(student, origin, report, work / "bundle").folder.rename(output)
    shutil.rmtree(works)
    log.info("bundle stands in %s", output)
    return load_bundle(output)


def _lesson(teacher: Teacher, texts: Sequence[str], works: Path, losses: LossSettings, precision: Precision) -> Lesson:
    asked = {name for name, weight in losses if weight and name not in ("embedding", "similarity")}
    folder = works / f"teacher-{_digest(teacher.bundle.digest, precision, *sorted(asked), *texts)}"
    ask(teacher, texts, folder)
    return read_lesson(folder, len(texts))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _save(student: Student, origin: Origin, report: Report, folder: Path) -> Bundle:
    folder.mkdir(exist_ok=True)
    shutil.copyfile(origin.tokenizer, folder / TOKENIZER_FILE)
    settings = report.settings
    languages = settings.languages or (origin.parent.spec.languages if origin.parent else ("und",))
    spec = BundleSpec(
        name=settings.name or Path(settings.output).name,
        languages=tuple(languages),
        max_length=origin.max_length,
        architecture=origin.arch,
        heads=student.bundle_heads,
        files={},
    )
    return save_bundle(folder, spec, student.bundle_tensors(), write_card(report))
