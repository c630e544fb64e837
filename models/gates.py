"""The precision gate: which precisions a bundle may run in, by what was measured of it.

`gates.yaml` stands in the bundle's folder, beside what makes scores but not part of the digest: a measurement changes
no byte of a score. It names the bundle it was measured for, and counts for no other. The rule: at least 99.5 % of
labels as in fp32, and no metric more than 0.3 points worse, for each head that is to answer. fp32 is the reference;
bf16 is allowed until a record says that it failed; every other precision only with a record that it passed.

Given up: a record is believed on any machine, though kernels differ between them; it names the one it was made on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.bundle import Bundle, BundleError

GATES_FILE = "gates.yaml"
MIN_AGREEMENT = 0.995
MAX_DROP_POINTS = 0.3
REFERENCE = "fp32"
ALLOWED_UNMEASURED = ("bf16",)


class PrecisionRefused(BundleError):  # noqa: N818 - it says what happened to the precision
    """A precision that a bundle isn't known to be right in; the message says what was measured and how to measure."""


class Drop(BaseModel):
    """How much worse a metric is than in fp32, in hundredths of its span; below zero is better."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    points: float
    metric: str


class Record(BaseModel):
    """What was measured of a bundle in one precision, against fp32 on the same texts.

    agreement : share of texts with the same label, by head.
    drops : the worst of each head's metrics; a head that no text had a label of has none, and agreement alone decides.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    passed: bool
    agreement: dict[str, float] = Field(min_length=1)
    drops: dict[str, Drop]
    num_texts: int = Field(ge=1)
    measured_on: str
    machine: str
    min_agreement: float = MIN_AGREEMENT
    max_drop_points: float = MAX_DROP_POINTS

    @model_validator(mode="after")
    def _verdict_follows(self) -> Record:
        if unknown := self.drops.keys() - self.agreement.keys():
            raise ValueError(f"drops names {sorted(unknown)}, of which there is no agreement")
        if self.passed != self.allows(self.agreement):
            raise ValueError(f"passed is {self.passed}, but the figures beside it say otherwise")
        return self

    def allows(self, heads: Iterable[str]) -> bool:
        """Whether these heads may answer together: each of them passed. None is never enough."""
        return bool(own := set(heads)) and own <= set(self.passed_heads)

    @property
    def passed_heads(self) -> tuple[str, ...]:
        """Heads that passed, each by its own figures; one that isn't a number passes nothing."""
        limits = self.min_agreement, self.max_drop_points
        return tuple(head for head, share in self.agreement.items() if _passes(share, self.drops.get(head), *limits))

    @property
    def least_agreement(self) -> float:
        """Of the head that agrees least."""
        return min(self.agreement.values())

    @property
    def worst(self) -> Drop | None:
        """Of all heads; None where no text had a label."""
        return max(self.drops.values(), key=lambda drop: drop.points, default=None)

    def __str__(self) -> str:
        least = min(self.agreement, key=lambda head: self.agreement[head])
        worst = self.worst
        drop = "no labels" if worst is None else f"{worst.points:+.2f} points of {worst.metric}"
        return (
            f"{100 * self.least_agreement:.2f} % of labels as in fp32 (head {least}; at least "
            f"{100 * self.min_agreement:g} %), worst drop {drop} (at most {self.max_drop_points:g}), "
            f"over {self.num_texts:,} texts on {self.measured_on}, {self.machine}"
        )


def _passes(
    share: float, drop: Drop | None, min_agreement: float = MIN_AGREEMENT, max_drop: float = MAX_DROP_POINTS
) -> bool:
    """The rule for one head; a figure that isn't a number passes nothing."""
    return share >= min_agreement and (drop is None or drop.points <= max_drop)


def judge(
    agreement: Mapping[str, float], drops: Mapping[str, Drop], num_texts: int, *, measured_on: str, machine: str
) -> Record:
    """The record of a measurement, by the rule."""
    passed = all(_passes(share, drops.get(head)) for head, share in agreement.items())
    return Record(
        passed=passed,
        agreement=dict(agreement),
        drops=dict(drops),
        num_texts=num_texts,
        measured_on=measured_on,
        machine=machine,
    )


class _File(BaseModel):
    """The contents of `gates.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: str
    precisions: dict[str, Record]


@dataclass(frozen=True)
class Gate:
    """The records that count for a bundle, and whose the file's records are if they are another bundle's."""

    bundle: Bundle
    records: Mapping[str, Record]
    measured_for: str | None = None

    @classmethod
    def load(cls, bundle: Bundle) -> Gate:
        """Read what stands beside a bundle; nothing measured if there is no file.

        Raises
        ------
        BundleError : the file is there and can't be understood.
        """
        path = bundle.folder / GATES_FILE
        if not path.exists():
            return cls(bundle, {})
        try:
            content = _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
            raise BundleError(f"{path} isn't a record of precisions: {error}; delete it or measure again") from error
        if content.bundle.rpartition("@")[2] != bundle.digest:
            return cls(bundle, {}, measured_for=content.bundle)
        return cls(bundle, content.precisions)

    def with_record(self, precision: str, record: Record) -> Gate:
        """This gate with a precision measured anew; records of another bundle are gone."""
        return Gate(self.bundle, {**self.records, precision: record})

    def text(self) -> str:
        """The contents of `gates.yaml`."""
        content = _File(bundle=str(self.bundle), precisions=dict(self.records))
        return yaml.safe_dump(content.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def write(self, folder: Path) -> Path:
        """Write `gates.yaml` to a folder, the bundle's own or another; a reader sees the old file or the new."""
        path = folder / GATES_FILE
        part = path.with_suffix(".part")
        part.write_text(self.text(), encoding="utf-8")
        return part.replace(path)

    def require(self, precision: str) -> None:
        """Raise `PrecisionRefused` unless the bundle may run in this precision."""
        record = self.records.get(precision)
        if precision == REFERENCE or (record is None and precision in ALLOWED_UNMEASURED):
            return
        answering = (head.name for head in self.bundle.spec.heads if head.kind != "embedding")
        if record is None or not record.allows(answering):
            raise PrecisionRefused(self._refusal(precision, record))

    def _refusal(self, precision: str, record: Record | None) -> str:
        command = f"python -m jobs.evaluate jobs/evaluate.yaml bundle={self.bundle.folder} 'precisions=[{precision}]'"
        if record is not None:
            passed = f"; heads that passed: {', '.join(record.passed_heads)} (heads=[…])" if record.passed_heads else ""
            return (
                f"bundle {self.bundle} failed the gate for {precision}: {record}{passed}. "
                f"Use bf16 or fp32; again: {command}"
            )
        other = f"; {GATES_FILE} beside it was measured for {self.measured_for}" if self.measured_for else ""
        return (
            f"bundle {self.bundle} hasn't been measured in {precision}{other}. Use bf16 or fp32, or measure: {command}"
        )


def require(bundle: Bundle, precision: str) -> None:
    """Raise `PrecisionRefused` unless `bundle` may run in `precision`."""
    Gate.load(bundle).require(precision)
