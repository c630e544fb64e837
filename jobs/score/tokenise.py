"""First stage, in CPU tasks: spans of files to units of token ids. One span gives one unit or several.

Columns in: the corpus's own. Out: `jobs.score.wire.TokenisedUnit`. Each different text of a unit is tagged and
tokenised once; rows point at it. Rows in = rows to score + rejected. If the text itself is passed through, it goes on
clean and with personal data masked: no other form of it is ever stored.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.reading.columns import Columns
from jobs.reading.parts import Part
from jobs.reading.read import read_span
from jobs.reading.rejects import REJECTED_SCHEMA, Reason
from jobs.score.recipe import Recipe, SpanTask, worker_bundle
from jobs.score.wire import TokenisedUnit
from models.clean import clean
from models.heads import need_offsets
from models.language import tag
from models.masking import mask
from models.tokeniser import Tokeniser


def read_units(recipe: Recipe, tasks: Sequence[SpanTask]) -> Iterator[pa.Table]:
    """Read spans, and give those of their units that aren't done yet, each as a block of one row."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a read task owns a share of one core
    bundle = worker_bundle(recipe.bundle, recipe.heads)
    tokeniser, with_offsets = bundle.tokeniser, need_offsets(bundle.spec.heads)
    for task in tasks:
        for part in read_span(task.span, recipe.columns, recipe.limits):
            if part.index not in task.done:
                name = task.name.unit(part.index, part.is_last)
                unit = tokenise(part, name, task.span.file.path, recipe.columns, tokeniser, with_offsets=with_offsets)
                yield unit.to_block()


def tokenise(
    part: Part, name: str, file: str, columns: Columns, tokeniser: Tokeniser, *, with_offsets: bool = False
) -> TokenisedUnit:
    """Clean, tag and tokenise a part's different texts.

    A text of which nothing remains is rejected, and so is a row whose id an earlier scored row has.
    """
    cleaned = pa.array([clean(text) for text in part.rows["text"].to_pylist()], pa.string())
    is_empty = pc.equal(cleaned, "").to_numpy(zero_copy_only=False)
    comes_again = _comes_again(part.rows["id"], ~is_empty)
    rejected = [
        part.rejected,
        _rejected(part.rows.filter(pa.array(is_empty)), file, Reason.EMPTY_TEXT, "nothing remains when it is cleaned"),
        _rejected(part.rows.filter(pa.array(comes_again)), file, Reason.DUPLICATE_ID, "an earlier row has it"),
    ]
    good = pa.array(~(is_empty | comes_again))
    rows = part.rows.filter(good)
    encoded = cleaned.filter(good).dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    kept = {output: rows[output] for output, source in columns.keep if source != columns.text}
    if quotes := [output for output, source in columns.keep if source == columns.text]:
        masked = pa.array([mask(text) for text in texts], pa.string()).take(encoded.indices)
        kept |= dict.fromkeys(quotes, masked)
    unit = TokenisedUnit(
        name=name,
        rows_in=part.rows_in,
        texts=_texts(texts, tokeniser, with_offsets),
        rows=pa.table(
            {"id": rows["id"], "text": encoded.indices} | {output: kept[output] for output, _ in columns.keep}
        ),
        rejected=pa.concat_tables(rejected),
    )
    assert unit.rows_in == unit.rows.num_rows + unit.rejected.num_rows, name
    return unit


def _texts(texts: list[str], tokeniser: Tokeniser, with_offsets: bool) -> pa.Table:
    tokens = tokeniser.encode(texts, with_offsets=with_offsets)
    ends = _ends(tokens.lengths)
    columns = {
        "ids": pa.ListArray.from_arrays(ends, pa.array(tokens.ids)),
        "truncated": pa.array(tokens.truncated, pa.bool_()),
        "lang": pa.array([tag(text) for text in texts], pa.string()),
    }
    if tokens.offsets is not None:
        pairs = pa.FixedSizeListArray.from_arrays(pa.array(tokens.offsets.reshape(-1)), 2)
        columns["offsets"] = pa.ListArray.from_arrays(ends, pairs)
    return pa.table(columns)


def _ends(lengths: NDArray[np.int32]) -> pa.Array:
    """Where the lists of an Arrow array begin, and where the last one ends."""
    return pa.array(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32))


def _comes_again(ids: pa.ChunkedArray, counts: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark the rows whose id an earlier one has, among those that count."""
    places = np.flatnonzero(counts)
    codes = ids.take(pa.array(places)).combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    _, first = np.unique(codes, return_index=True)
    again = np.zeros(len(ids), dtype=np.bool_)
    again[np.delete(places, first)] = True
    return again


def _rejected(rows: pa.Table, file: str, reason: Reason, detail: str) -> pa.Table:
    count = rows.num_rows
    place = [rows["id"], pa.repeat(file, count), rows["row"], rows["byte"]]
    return pa.Table.from_arrays(
        [*place, pa.repeat(str(reason), count), pa.repeat(detail, count)], schema=REJECTED_SCHEMA
    )
