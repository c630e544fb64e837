"""The text of a pretraining: sources in any store to documents, clean and with personal data masked.

Parquet, JSONL and CSV go through the readers of the scoring job, a document a row; a plain text file is a document a
line. A `Slice` is what one task reads: a span of one file. What can't be read stops the run before it starts; rows that
hold no text are left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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

_COMPRESSED = (".gz", ".gzip", ".zst", ".zstd")


@dataclass(frozen=True)
class Slice:
    """A span of a file of the source of that number; no column: lines of plain text."""

    source: int
    span: Span
    column: str | None


def plan_slices(sources: Sequence[SourceSettings]) -> list[Slice]:
    """Look into every file of all sources.

    Raises
    ------
    ValueError, OSError : nothing is there, a file can't be read, or the text's column is missing.
    """
    slices = [one for number, source in enumerate(sources) for one in _slices_of(number, source)]
    if not any(one.span.file.size_bytes for one in slices):
        raise PretrainError(f"data: all {len(slices)} files are empty")
    return slices


def _slices_of(number: int, source: SourceSettings) -> Iterator[Slice]:
    files = list_input(source.input, "jsonl").files  # whatever the extension: plain text has no reader of its own
    if source.format == "text" or (source.format == "auto" and all(_is_text(file) for file in files)):
        yield from (Slice(number, Span(file, 0, file.size_bytes, None, 0), None) for file in files)
        return
    plan = plan_spans(list_input(source.input, source.format).files, Columns(source.text, source.text))
    yield from (Slice(number, span, source.text) for span in plan.spans)


def _is_text(file: SourceFile) -> bool:
    name = file.path.lower()
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    return name.endswith(".txt")


def read_documents(one: Slice) -> Iterator[str]:
    """Clean, masked documents of a slice, in order; what is empty is left out."""
    for text in _lines(one) if one.column is None else _rows(one):
        if document := mask(clean(text)):
            yield document


def _lines(one: Slice) -> Iterator[str]:
    with open_plain(one.span.file) as stream:
        for _, line in iter_lines(stream):
            if line is not None:
                yield line.decode("utf-8", errors="replace")


def _rows(one: Slice) -> Iterator[str]:
    assert one.column is not None
    for part in read_span(one.span, Columns(one.column, one.column), UnitLimits()):
        yield from part.rows["text"].to_pylist()
