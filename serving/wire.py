"""What crosses from the ingress to a replica and back. Small, frozen, pickled; the replies carry Arrow tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.ipc


@dataclass(frozen=True)
class ScoreCall:
    """Texts as the client sent them, and how long there is to answer."""

    texts: tuple[str, ...]
    heads: tuple[str, ...] | None  # None: all
    deadline_s: float


@dataclass(frozen=True)
class Stages:
    """Seconds that a call spent in each stage at its replica."""

    tokenise_s: float
    wait_s: float
    compute_s: float


@dataclass(frozen=True)
class Load:
    """A replica as it was when it answered. Totals count since it started."""

    replica: str
    queue_tokens: int
    num_batches: int
    batch_tokens: int
    token_budget: int
    tokens_per_s: float


@dataclass(frozen=True)
class ScoreReply:
    """Answers for `rows`, the positions of those texts of the call of which something remained when cleaned.

    `table` has a row for each of them: lang, num_tokens, truncated, then the columns of the heads asked for.
    """

    bundle: str  # name@digest
    rows: tuple[int, ...]
    table: pa.Table
    stages: Stages
    load: Load

    def __reduce__(self) -> tuple[Any, ...]:
        """As an Arrow stream: 10 us to write and 12 to read, where pickling the table's parts takes 90 and 51."""
        return _reply, (self.bundle, self.rows, _to_stream(self.table), self.stages, self.load)


def _to_stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream


def _reply(bundle: str, rows: tuple[int, ...], stream: bytes, stages: Stages, load: Load) -> ScoreReply:
    return ScoreReply(bundle, rows, pa.ipc.open_stream(stream).read_all(), stages, load)


@dataclass(frozen=True)
class ExplainCall:
    """One text, and the score to explain: that of a head's label, or the label the head finds likeliest."""

    text: str
    head: str | None
    label: str | None
    num_spans: int
    deadline_s: float


@dataclass(frozen=True)
class Attribution:
    """A span of the text as the client sent it, and what the score loses without it."""

    start: int
    end: int
    text: str
    effect: float


@dataclass(frozen=True)
class ExplainReply:
    """The score of `column`, and the spans that move it most, strongest first."""

    bundle: str
    method: str
    head: str
    column: str
    score: float
    num_tokens: int  # of all passes
    truncated: bool
    attributions: tuple[Attribution, ...]


@dataclass(frozen=True)
class HeadFacts:
    """A head as clients may know it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]  # name, Arrow type


@dataclass(frozen=True)
class BundleFacts:
    """A loaded bundle as clients may know it."""

    bundle: str
    languages: tuple[str, ...]
    max_length: int
    precision: str
    device: str
    heads: tuple[HeadFacts, ...]
    card: str
