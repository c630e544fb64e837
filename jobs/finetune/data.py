"""All labelled texts of a run in one table: clean, masked, with their labels, weights and parts.

From here on nobody sees a text as it was found: personal data is masked before a tokeniser, a file or a log gets it.
Odd data is counted and said, with ids and never with texts: rows without a label, equal texts with different labels,
texts in both training and held-out parts, labels that training never meets.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.evaluate.kinds import KINDS, label_names
from jobs.evaluate.labels import Labelled, Truth, named_labels
from jobs.evaluate.rows import Rows, read_rows
from jobs.evaluate.settings import SetSettings
from jobs.finetune.heads import LearntHead, choose_head
from jobs.finetune.settings import CORRECTIONS, FinetuneError, FinetuneSettings, HeadSettings
from jobs.finetune.spans import moved_to_masked
from jobs.finetune.split import LEFT_OUT, TRAIN, Parts, beyond_share, split_texts
from jobs.reading.columns import ColumnError
from models.bundle import Bundle
from models.masking import mask

log = logging.getLogger("verbatim.finetune")

LABEL, SPANS = "label", "spans"  # columns that labels are looked for in
MAX_SHOWN = 5  # groups of ids in the log


@dataclass(frozen=True)
class Labels:
    """A head's labels of N rows: which have one, and the truth (as in `jobs.evaluate.labels`; any where unknown).

    allowed : (N, C) the answers that aren't wrong, where a cell may allow several of one label a text. Such rows teach,
        and nothing is measured on them: they aren't known.
    """

    known: NDArray[np.bool_]
    truth: Truth
    allowed: NDArray[np.bool_] | None = None

    def take(self, rows: NDArray[np.integer]) -> Labels:
        """Of some of the rows."""
        return Labels(self.known[rows], self.truth[rows], None if self.allowed is None else self.allowed[rows])

    def forget(self, rows: NDArray[np.integer]) -> None:
        """From now on nobody knows the labels of some of the rows."""
        self.known[rows] = False
        if self.allowed is not None:
            self.allowed[rows] = False

    @property
    def teaches(self) -> NDArray[np.bool_]:
        """Rows that something can be learnt from."""
        return self.known if self.allowed is None else np.asarray(self.allowed.any(axis=1), np.bool_)


@dataclass(frozen=True)
class Data:
    """N texts of all sets. `sets` are places in `names`, `parts` are those of `jobs.finetune.split`."""

    names: tuple[str, ...]
    heads: tuple[LearntHead, ...]
    ids: list[str]
    texts: list[str]
    sets: NDArray[np.int32]
    weights: NDArray[np.float32]
    parts: Parts
    labels: Mapping[str, Labels]
    contradictory: Mapping[str, tuple[tuple[str, ...], ...]]
    rejected: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, part: str) -> NDArray[np.int64]:
        """Rows of a part."""
        return np.flatnonzero(self.parts == part)

    def digest(self) -> str:
        """Names texts, labels and parts, so that what was trained on other data isn't gone on with."""
        digest = hashlib.sha256()
        for text, part, weight in zip(self.texts, self.parts, self.weights, strict=True):
            digest.update(f"{text}\0{part}\0{weight}\n".encode("utf-8", "surrogatepass"))
        for head in self.heads:
            own = self.labels[head.spec.name]
            digest.update(head.spec.model_dump_json().encode())
            digest.update("\n".join(map(_spelled, own.truth[own.known])).encode())
            digest.update(own.known.tobytes() if own.allowed is None else own.allowed.tobytes())
        return digest.hexdigest()[:12]


@dataclass(frozen=True)
class _ReadSet:
    name: str
    settings: SetSettings
    rows: Rows


def read_data(settings: FinetuneSettings, parent: Bundle) -> Data:
    """Read, mask, label and part all sets.

    Raises
    ------
    ValueError, OSError : what can't be read or learnt from, and what would be right.
    """
    sets = _read_sets(settings)
    heads = _choose_heads(sets, settings, parent)
    texts = [mask(text) for one in sets for text in one.rows.texts]
    labels = {head.spec.name: _labels(head, sets) for head in heads}
    parts = _parts(sets, texts, settings)
    contradictory = {name: _contradictory(own, texts, sets) for name, own in labels.items()}
    if settings.corrections:
        _make_room(labels, parts, texts, len(sets[-1].rows))
    data = Data(
        names=tuple(one.name for one in sets),
        heads=heads,
        ids=_ids(sets),
        texts=texts,
        sets=np.repeat(np.arange(len(sets), dtype=np.int32), [len(one.rows) for one in sets]),
        weights=np.concatenate([_weights(one, settings) for one in sets]),
        parts=parts,
        labels=labels,
        contradictory=contradictory,
        rejected=dict(sum((Counter(one.rows.rejected) for one in sets), Counter())),
    )
    _check(data)
    return data


def _read_sets(settings: FinetuneSettings) -> list[_ReadSet]:
    wanted = dict(settings.sets) or _one_set(settings)
    if settings.corrections:
        first = next(iter(wanted.values()))
        wanted[CORRECTIONS] = first.model_copy(update={"input": settings.corrections, "split": None, "id": None})
    return [_ReadSet(name, one, read_rows(one)) for name, one in wanted.items()]


def _one_set(settings: FinetuneSettings) -> dict[str, SetSettings]:
    """`input` with the label column that is named or, if none is, found: `label`, else `spans`.

    Raises
    ------
    ColumnError : the file has neither; the message is about the first.
    """
    if settings.label:
        return settings.one_set(settings.label)
    errors = []
    for column in (LABEL, SPANS):
        found = settings.one_set(column)
        try:
            read_rows(found[settings.set_name])
        except ColumnError as error:
            errors.append(error)
        else:
            return found
    raise errors[0]


def _ids(sets: Sequence[_ReadSet]) -> list[str]:
    """Of several sets, ids are told with the set's name."""
    return [f"{one.name}/{row_id}" if len(sets) > 1 else row_id for one in sets for row_id in one.rows.ids]


def _choose_heads(sets: Sequence[_ReadSet], settings: FinetuneSettings, parent: Bundle) -> tuple[LearntHead, ...]:
    names = list(dict.fromkeys(name for one in sets for name in one.settings.labels))
    if unknown := settings.heads.keys() - set(names):
        raise FinetuneError(f"heads names {sorted(unknown)}, which no set has labels for; there are {names}")
    heads = []
    for name in names:
        labelling = [(one, label) for one in sets if (label := one.settings.labels.get(name))]
        columns = [(named_labels(one.rows.columns[label.column], label), label) for one, label in labelling]
        heads.append(choose_head(name, columns, settings.heads.get(name, HeadSettings()), parent))
        log.info("head %s: %s (%s), %d labels", name, heads[-1].spec.kind, heads[-1].why, len(heads[-1].spec.labels))
    return tuple(heads)


def _labels(head: LearntHead, sets: Sequence[_ReadSet]) -> Labels:
    """Labels of all rows of all sets; a set that doesn't label the head leaves its rows unknown."""
    parts = [_dense(head, _labelled(head, one), len(one.rows)) for one in sets]
    return Labels(
        np.concatenate([part.known for part in parts]),
        np.concatenate([part.truth for part in parts]),
        _allowed(parts, len(head.spec.labels)),
    )


def _allowed(parts: Sequence[Labels], num_labels: int) -> NDArray[np.bool_] | None:
    """None where no set's cells may allow several answers; else of a set whose cells mayn't, the one answer."""
    if all(part.allowed is None for part in parts):
        return None
    one_hot = np.eye(num_labels, dtype=np.bool_)
    exact = (one_hot[part.truth] & part.known[:, None] for part in parts)
    return np.concatenate([e if part.allowed is None else part.allowed for part, e in zip(parts, exact, strict=True)])


def _labelled(head: LearntHead, one: _ReadSet) -> Labelled | None:
    label = one.settings.labels.get(head.spec.name)
    if label is None:
        return None
    where = f"sets.{one.name}.labels.{head.spec.name} (column {label.column!r})"
    if label.separator is None and head.separator is not None:
        label = label.model_copy(update={"separator": head.separator})
    labelled = KINDS[head.spec.kind].read(one.rows.columns[label.column], label_names(head.spec), label, where)
    if head.spec.kind != "token":
        return labelled
    raw = [one.rows.raw[place] for place in np.flatnonzero(labelled.known)]
    return Labelled(labelled.known, _moved(labelled.truth, raw))


def _moved(truth: Truth, raw: Sequence[str]) -> Truth:
    moved = np.empty(len(raw), object)
    for row, (spans, text) in enumerate(zip(truth, raw, strict=True)):
        moved[row] = moved_to_masked(spans, text) if spans else spans
    return moved


def _dense(head: LearntHead, labelled: Labelled | None, num_rows: int) -> Labels:
    """One entry a row, whether it is known or not."""
    kind, known = head.spec.kind, np.zeros(num_rows, np.bool_) if labelled is None else labelled.known
    if kind == "token":
        truth: Truth = np.empty(num_rows, object)
        truth[:] = [frozenset()] * num_rows
    elif kind == "multi":
        truth = np.zeros((num_rows, len(head.spec.labels)), np.int8)
    else:
        truth = np.zeros(num_rows, np.int64)
    if labelled is None:
        return Labels(known, truth)
    truth[known] = labelled.truth
    return Labels(known, truth, labelled.allowed)


def _weights(one: _ReadSet, settings: FinetuneSettings) -> NDArray[np.float32]:
    weight = settings.corrections_weight if one.name == CORRECTIONS else 1.0
    return np.full(len(one.rows), weight, np.float32)


def _parts(sets: Sequence[_ReadSet], texts: Sequence[str], settings: FinetuneSettings) -> Parts:
    is_dev = np.concatenate([_is_dev(one) for one in sets])
    has_split = np.repeat([one.settings.split is not None for one in sets], [len(one.rows) for one in sets])
    parts = split_texts(texts, is_dev, has_split, (settings.held_out, settings.tune))
    num_straddling = int((parts == LEFT_OUT).sum())
    if num_straddling:
        log.warning("%d training rows repeat a held-out text and are left out of training", num_straddling)
    parts[beyond_share(texts, settings.train_share) & (parts == TRAIN)] = LEFT_OUT
    return parts


def _make_room(labels: Mapping[str, Labels], parts: Parts, texts: Sequence[str], num: int) -> None:
    """Have all corrections, the last `num` rows, trained on, and other rows of their texts not contradict them.

    Such a row keeps its labels for heads that no correction speaks of. It is left out if it has none, or was held out.
    """
    first = len(texts) - num
    corrected = set(texts[first:])
    same = np.flatnonzero([text in corrected for text in texts[:first]])
    keeps = np.zeros(len(same), np.bool_)
    for own in labels.values():
        said = {text for text, teaches in zip(texts[first:], own.teaches[first:], strict=True) if teaches}
        own.forget(np.array([row for row in same.tolist() if texts[row] in said], np.int64))
        keeps |= own.teaches[same]
    parts[same[~keeps | (parts[same] != TRAIN)]] = LEFT_OUT
    parts[first:] = TRAIN


def _is_dev(one: _ReadSet) -> NDArray[np.bool_]:
    split = one.settings.split
    if split is None:
        return np.zeros(len(one.rows), np.bool_)
    is_dev = one.rows.where(split.column, split.value)
    if not is_dev.any():
        found = Counter(map(str, one.rows.columns[split.column])).most_common(8)
        raise FinetuneError(f"sets.{one.name}: no row has {split.value!r} in {split.column!r}; it holds {dict(found)}")
    return is_dev


def _contradictory(own: Labels, texts: Sequence[str], sets: Sequence[_ReadSet]) -> tuple[tuple[str, ...], ...]:
    """Ids of labelled rows of one text whose labels differ, a group a text. Corrections may contradict."""
    ids = _ids(sets)
    is_correction = np.repeat([one.name == CORRECTIONS for one in sets], [len(one.rows) for one in sets])
    groups: dict[str, list[int]] = defaultdict(list)
    for row in np.flatnonzero(own.known & ~is_correction):
        groups[texts[int(row)]].append(int(row))
    differing = (rows for rows in groups.values() if len({_spelled(own.truth[row]) for row in rows}) > 1)
    return tuple(tuple(ids[row] for row in rows) for rows in differing)


def _spelled(label: Any) -> str:
    return str(sorted(label)) if isinstance(label, frozenset) else str(np.asarray(label).tolist())


def _check(data: Data) -> None:
    if not len(data.rows(TRAIN)):
        raise FinetuneError("no text is left to train on")
    for head in data.heads:
        for fact in _odd(data, head):
            log.warning("head %s: %s", head.spec.name, fact)
    log.info("texts: %s", ", ".join(f"{count:,} {part}" for part, count in Counter(data.parts.tolist()).items()))


def _odd(data: Data, head: LearntHead) -> Iterator[str]:
    """What there is to say about a head's labels.

    Raises
    ------
    FinetuneError : training meets one label alone.
    """
    own = data.labels[head.spec.name]
    if groups := data.contradictory[head.spec.name]:
        shown = "; ".join(", ".join(group[:3]) for group in groups[:MAX_SHOWN])
        yield f"{len(groups)} texts have contradictory labels: {shown}{' …' if len(groups) > MAX_SHOWN else ''}"
    counts = label_counts(data, head, TRAIN)
    if sum(count > 0 for count in counts.values()) < (2 if head.spec.kind in ("single", "ordinal") else 1):
        raise FinetuneError(f"head {head.spec.name}: the texts to train on have one label alone: {counts}")
    if never := [label for label, count in counts.items() if not count]:
        yield f"labels without a text to train on: {', '.join(never)}"
    labelling = np.isin(data.sets, np.unique(data.sets[own.teaches]))
    if num_unlabelled := int((labelling & ~own.teaches).sum()):
        yield f"{num_unlabelled} rows of its sets have no label"


def label_counts(data: Data, head: LearntHead, part: str) -> dict[str, int]:
    """Texts (of a token head, spans) of each label in a part."""
    own, rows = data.labels[head.spec.name], data.rows(part)
    truth, names = own.truth[rows[own.known[rows]]], label_names(head.spec)
    if head.spec.kind == "token":
        found = Counter(label for spans in truth for _, _, label in spans)
        return {name: found[name] for name in names}
    counts = (truth > 0).sum(axis=0) if head.spec.kind == "multi" else np.bincount(truth, minlength=len(names))
    return {name: int(count) for name, count in zip(names, counts, strict=True)}
