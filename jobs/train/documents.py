"""The text of a pretraining: sources in any store to documents, clean and with personal data masked.

Parquet, JSONL and CSV go through the readers of the scoring job, a document a row; a plain text file is a document a
line. A `Slice` is what one task reads: a span of one file. What can't be read stops the run before it starts; rows that
hold no text, or aren't of the split that a source names, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.store_errors import masked
from jobs.evaluate.settings import as_text
from jobs.reading.columns import Columns
from jobs.reading.listing import SourceFile, list_input
from jobs.reading.parts import UnitLimits
from jobs.reading.plan import plan_spans
from jobs.reading.read import read_span
from jobs.reading.spans import Span
from jobs.reading.streams import iter_lines, open_plain
from jobs.train.pretrain_settings import PretrainError, SourceSettings
from models.clean import clean
from models.masking import mask

_SPLIT = "split"
_COMPRESSED = (".gz", ".gzip", ".zst", ".zstd")


@dataclass(frozen=True)
class Slice:
    """A span of a file of the source of that number.

    columns : what is read of a row; None: lines of plain text.
    split : what the split's column must hold; None: every row is read.
    """

    source: int
    span: Span
    columns: Columns | None
    split: str | None = None


def plan_slices(sources: Sequence[SourceSettings]) -> list[Slice]:
    """Look into every file of all sources.

    Raises
    ------
    ValueError, OSError : nothing is there, a file can't be read, a column is missing, or no row is of the split.
    """
    slices = [one for number, source in enumerate(sources) for one in _slices_of(number, source)]
    if not any(one.span.file.size_bytes for one in slices):
        raise PretrainError(f"data: all {len(slices)} files are empty")
    return slices


def _slices_of(number: int, source: SourceSettings) -> list[Slice]:
    files = list_input(source.input, "jsonl").files  # whatever the extension: plain text has no reader of its own
    if source.format == "text" or (source.format == "auto" and all(_is_text(file) for file in files)):
        if source.split:
            raise PretrainError(f"data: {masked(source.input)} is plain text: it has no column {source.split.column!r}")
        return [Slice(number, Span(file, 0, file.size_bytes, None, 0), None) for file in files]
    return _row_slices(number, source, list_input(source.input, source.format).files)


def _row_slices(number: int, source: SourceSettings, files: Sequence[SourceFile]) -> list[Slice]:
    split = source.split
    columns = Columns(source.text, source.text, ((_SPLIT, split.column),) if split else ())
    value = split.value if split else None
    slices = [Slice(number, span, columns, value) for span in plan_spans(files, columns).spans]
    if split and not any(True for one in slices for _ in _rows(one)):
        raise PretrainError(f"data: no row of {masked(source.input)} has {split.value!r} in {split.column!r}")
    return slices


def _is_text(file: SourceFile) -> bool:
    name = file.path.lower()
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    return name.endswith(".txt")


def read_documents(one: Slice) -> Iterator[str]:
    """Clean, masked documents of a slice, in order; what is empty is left out."""
    for text in _lines(one) if one.columns is None else _rows(one):
        if document := mask(clean(text)):
            yield document


def _lines(one: Slice) -> Iterator[str]:
    with open_plain(one.span.file) as stream:
        for _, line in iter_lines(stream):
            if line is not None:
                yield line.decode("utf-8", errors="replace")


def _rows(one: Slice) -> Iterator[str]:
    assert one.columns is not None
    for part in read_span(one.span, one.columns, UnitLimits()):
        texts = part.rows["text"].to_pylist()
        if one.split is None:
            yield from texts
            continue
        cells = part.rows[_SPLIT].to_pylist()
        yield from (text for text, cell in zip(texts, cells, strict=True) if _holds(cell, one.split))


def _holds(cell: Any, value: str) -> bool:
    return cell is not None and as_text(cell) == value
