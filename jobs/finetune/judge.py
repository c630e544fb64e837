"""The new bundle before the world sees it: `jobs.evaluate` on the held-out texts, against TF-IDF and an older bundle.

The clean, masked rows go to a file a set in the work folder, which is what the evaluation reads, so that all systems
learn from and answer the very same texts.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.evaluate.kinds import label_names
from jobs.evaluate.results import Evaluation
from jobs.evaluate.run import evaluate
from jobs.evaluate.settings import BaselineSettings, EvaluateSettings, LabelSettings, SetSettings, SplitSettings
from jobs.finetune.data import Data
from jobs.finetune.heads import LearntHead
from jobs.finetune.settings import FinetuneSettings
from jobs.finetune.split import DEV, LEFT_OUT
from models.bundle import Bundle

log = logging.getLogger("verbatim.finetune")

OPEN_MARK = "\0"  # before a label that is left open: no label begins so


def judge(data: Data, bundle: Bundle, old: Bundle, work: Path, settings: FinetuneSettings) -> Evaluation | None:
    """Evaluate on the held-out texts; None where there are none."""
    sets = {
        name: one for place, name in enumerate(data.names) if (one := _write_set(data, place, work / f"{name}.parquet"))
    }
    if not sets:
        log.warning("no text is held out, so nothing can be said of how good the bundle is")
        return None
    has_baseline = settings.baseline and importlib.util.find_spec("sklearn") is not None
    if settings.baseline and not has_baseline:
        log.warning(
            "no scikit-learn here, so no traditional method to hold the bundle against: pip install '.[evaluate]'"
        )
    shared = {head.name for head in old.spec.heads} & {head.spec.name for head in data.heads}
    evaluation, _ = evaluate(
        EvaluateSettings(
            bundle=str(bundle.folder),
            output=str(work / "evaluation"),
            sets=sets,
            compare_with=str(old.folder) if shared and old.digest != bundle.digest else None,
            baseline=BaselineSettings() if has_baseline else None,
            seed=settings.seed,
            threads=settings.threads,
        )
    )
    return evaluation


def is_worse(evaluation: Evaluation | None, old: Bundle) -> bool:
    """Whether a head has become clearly worse than the old bundle's."""
    if evaluation is None:
        return False
    heads = [head for one in evaluation.sets for head in one.heads]
    against = [(head, s) for head in heads for s in head.systems[1:] if s.system.startswith(f"{old} ")]
    return any(system.gains[head.headline].high < 0 for head, system in against)


def _write_set(data: Data, place: int, path: Path) -> SetSettings | None:
    """A set's rows as the evaluation reads them; None if none of them is held out, or none has a label."""
    rows = np.flatnonzero((data.sets == place) & (data.parts != LEFT_OUT))
    labelling = [head for head in data.heads if data.labels[head.spec.name].known[rows].any()]
    if not labelling or not (data.parts[rows] == DEV).any():
        return None
    columns = {
        "id": pa.array([data.ids[row] for row in rows]),
        "text": pa.array([data.texts[row] for row in rows]),
        "split": pa.array(data.parts[rows].tolist()),
        **{f"label_{head.spec.name}": pa.array(_cells(data, head, rows), pa.string()) for head in labelling},
    }
    pq.write_table(pa.table(columns), path)
    labels = {
        head.spec.name: LabelSettings(
            column=f"label_{head.spec.name}", open_mark=OPEN_MARK if head.spec.kind == "multi" else None
        )
        for head in labelling
    }
    return SetSettings(input=str(path), id="id", labels=labels, split=SplitSettings(value=DEV))


def _cells(data: Data, head: LearntHead, rows: NDArray[np.int64]) -> list[str | None]:
    own, names = data.labels[head.spec.name], label_names(head.spec)
    return [_cell(own.truth[row], head, names) if own.known[row] else None for row in rows]


def _cell(truth: Any, head: LearntHead, names: tuple[str, ...]) -> str:
    if head.spec.kind == "token":
        return json.dumps(sorted(truth), ensure_ascii=False)
    if head.spec.kind == "multi":
        marks = ("" if truth[code] == 1 else OPEN_MARK for code in np.flatnonzero(truth))
        held = [f"{mark}{names[code]}" for mark, code in zip(marks, np.flatnonzero(truth), strict=True)]
        return json.dumps(held, ensure_ascii=False)
    return names[int(truth)]
