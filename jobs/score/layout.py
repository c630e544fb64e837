"""Where a set of scores lies in the output, and what its objects are called.

    OUTPUT/scores/<bundle@digest>/<fingerprint>/<unit>.parquet      one object a unit: its presence means 'done'
    OUTPUT/rejected/<bundle@digest>/<fingerprint>/<unit>.parquet    only for units with rejected rows
    OUTPUT/superseded/{scores,rejected}/…                           what changed or vanished input had given
    OUTPUT/ledger/<bundle@digest>/<fingerprint>/                    the bookkeeping: ledger, lease, bad files, last run
    OUTPUT/manifest.json                                            last: the set is complete

A unit's name is `<file>-<span>-<part>`: a digest of the file's path, a digest of what the span is (path, size, etag,
slice, and the bounds that cut it), and the part's number, with `z` on the span's last. So a listing alone says what is
done, a changed file is another unit, and writing a unit again writes the same name. Memory grows with files, not rows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from cluster.stores import Store, open_store
from jobs.reading.spans import Span

SCHEMA_VERSION = 3  # raise it when the same text and bundle would give other columns or values
MANIFEST = "manifest.json"
LAST_PART = "z"
_UNIT_NAME = re.compile(r"^[0-9a-f]{16}-([0-9a-f]{16})-(\d{6})(z?)$")


@dataclass(frozen=True)
class SetLayout:
    """The places of one set of scores: all that bundle and fingerprint name. Small and picklable."""

    output: str
    bundle: str
    fingerprint: str

    @property
    def root(self) -> Store:
        """The output's root."""
        return open_store(self.output)

    @property
    def scores(self) -> str:
        """Folder of the units' scores, relative to the root."""
        return f"scores/{self.bundle}/{self.fingerprint}"

    @property
    def rejected(self) -> str:
        """Folder of the rejected rows, relative to the root."""
        return f"rejected/{self.bundle}/{self.fingerprint}"

    @property
    def ledger(self) -> str:
        """Folder of the bookkeeping, relative to the root."""
        return f"ledger/{self.bundle}/{self.fingerprint}"


@dataclass(frozen=True)
class SpanName:
    """First two parts of the names of a span's units."""

    file: str
    span: str

    def unit(self, part: int, is_last: bool) -> str:
        """Name of one unit of the span."""
        return f"{self.file}-{self.span}-{part:06d}{LAST_PART if is_last else ''}"


def fingerprint(options: Mapping[str, object]) -> str:
    """Digest of everything that can change a score but the input: bundle digest, options, schema version."""
    return _digest({"schema_version": SCHEMA_VERSION, **options}, 12)


def span_name(span: Span, bounds: Mapping[str, object]) -> SpanName:
    """Name a span by what it is; `bounds` are the limits that cut it into units."""
    file = span.file
    identity = {
        "path": file.path,
        "size": file.size_bytes,
        "etag": file.etag,
        "start": span.start,
        "stop": span.stop,
        "bounds": dict(bounds),
    }
    return SpanName(_digest(file.path, 16), _digest(identity, 16))


@dataclass(frozen=True)
class Done:
    """What a listing of a set's scores says: for each span, the units that exist."""

    parts: Mapping[str, frozenset[int]]
    last: Mapping[str, int]
    names: frozenset[str]

    def is_complete(self, span: SpanName) -> bool:
        """Whether every unit of the span exists."""
        last = self.last.get(span.span)
        return last is not None and len(self.parts[span.span]) == last + 1

    def of_span(self, span: SpanName) -> frozenset[int]:
        """Parts of the span that exist."""
        return self.parts.get(span.span, frozenset())


def read_done(paths: Iterable[str]) -> Done:
    """Read what is done off the names of the objects in a set's scores folder."""
    parts: dict[str, set[int]] = defaultdict(set)
    last: dict[str, int] = {}
    names: set[str] = set()
    for path in paths:
        name = PurePosixPath(path).name.removesuffix(".parquet")
        match = _UNIT_NAME.match(name)
        if match is None:
            raise ValueError(
                f"{path} stands among the scores but is no unit's name; move it away: sets are never mixed"
            )
        span, number = match[1], int(match[2])
        parts[span].add(number)
        if match[3]:
            last[span] = number
        names.add(name)
    return Done({span: frozenset(numbers) for span, numbers in parts.items()}, last, frozenset(names))


def _digest(what: object, chars: int) -> str:
    plain = json.dumps(what, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()[:chars]
