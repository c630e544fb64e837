"""From the public sets to labelled Parquet files that `jobs.finetune` and `jobs.evaluate` read.

    work/data/<set>.parquet       may train what is shipped; with the generated sets `phrases`, `mixed` and `pieces`
    work/evaluate/<set>.parquet   only measured on
    work/terms.md                 sets, terms, attribution, and what the weak labels are worth: goes into the card

Personal data is masked before anything is written, and no text is logged. The same input gives the same files; each is
put in place whole. Given up: skipping sets that are done; all of it takes minutes.
"""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.starter.label import HEADS, REAL_TOPICS, SCHEMA, Labeller, Origin
from jobs.starter.mixed import joined
from jobs.starter.phrases import written
from jobs.starter.pieces import pieces
from jobs.starter.said import Said
from jobs.starter.sets import SETS, SetSpec
from jobs.starter.settings import StarterSettings
from jobs.starter.taxonomy import Taxonomy, read_taxonomy
from jobs.starter.terms import write_terms
from jobs.starter.weak import Tally

log = logging.getLogger("verbatim.starter")

PHRASES, MIXED, PIECES, OPINIONS = "phrases", "mixed", "pieces", "dianping_opinions"
MIXED_OF = {"zh": OPINIONS, "en": "pros_cons"}  # short opinions, by language
NUM_MIXED = {"train": 3000, "dev": 300}  # pairs of each language
PIECES_OF = ("sst2", "amazon_polarity_10k", "womens_clothing")  # of the language that there is a teacher for
NUM_PIECES = {"train": 30_000, "dev": 300}  # of each set
FILE_ROWS = 20_000  # of a row group


@dataclass
class _Run:
    """What is gathered from set to set."""

    settings: StarterSettings
    labeller: Labeller
    taxonomies: dict[str, Taxonomy]
    tally: Tally = field(default_factory=Tally)
    counts: dict[str, Counter[str]] = field(default_factory=dict)  # rows by set, and labelled ones by head
    short: dict[tuple[str, str], dict[str, list[str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )  # texts of the sets in MIXED_OF, by language and split, then by polarity
    whole: dict[tuple[str, str], list[str]] = field(
        default_factory=lambda: defaultdict(list)
    )  # texts of the sets in PIECES_OF, by set and split

    def write(self, name: str, rows: Iterable[dict[str, Any]], folder: str) -> None:
        """One set's file, whole or not at all."""
        path = Path(self.settings.work) / folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
        known = {head: len(table) - table[head].null_count for head in HEADS}
        table = table.drop_columns([name for name in (*HEADS, REAL_TOPICS) if table[name].null_count == len(table)])
        part = path.with_suffix(".part")
        pq.write_table(table, part, compression="zstd", compression_level=19, row_group_size=FILE_ROWS)
        part.replace(path)
        self.counts[name] = Counter({"rows": len(table), **known})
        log.info("%s: %d rows, %.1f MB; %s", name, len(table), path.stat().st_size / 1e6, _told(known))


def prepare(settings: StarterSettings) -> None:
    """Write all files.

    Raises
    ------
    ValueError : a set's file is missing, or a taxonomy is wrong.
    """
    taxonomies = {
        "topics": read_taxonomy(Path(settings.taxonomy)),
        "intents": read_taxonomy(Path(settings.intents)),
        "urgency": read_taxonomy(Path(settings.urgency)),
    }
    run = _Run(settings, Labeller(*taxonomies.values()), taxonomies)
    _check_sets(settings)
    for name, spec in SETS.items():
        run.write(name, _rows(name, spec, run), "data" if spec.may_train else "evaluate")
    run.write(PHRASES, _written(run), "data")
    run.write(MIXED, _mixed(run), "data")
    run.write(PIECES, _pieces(run), "data")
    write_terms(Path(settings.work) / "terms.md", run.counts, run.tally)


def _check_sets(settings: StarterSettings) -> None:
    for name, spec in SETS.items():
        path = _path(settings, spec)
        if not path.is_file():
            raise ValueError(f"data: set {name!r} should lie at {path}, and there is no such file")


def _path(settings: StarterSettings, spec: SetSpec) -> Path:
    return Path(settings.data) / "feedback" / f"{spec.file}.parquet"


def _rows(name: str, spec: SetSpec, run: _Run) -> Iterator[dict[str, Any]]:
    origin = Origin(name, spec.is_feedback)
    found = list(_labelled(name, spec, origin, run))
    if name != OPINIONS:
        yield from found
        return
    trained = {row["text"] for row in found if row["split"] == "train"}
    seen: set[tuple[str, str, str]] = set()
    for row in found:  # short texts repeat by the thousand: each once a polarity, and in one part
        key = (row["split"], row["text"], row["sentiment"])
        if key not in seen and not (row["split"] == "dev" and row["text"] in trained):
            seen.add(key)
            yield row


def _labelled(name: str, spec: SetSpec, origin: Origin, run: _Run) -> Iterator[dict[str, Any]]:
    for row in _spread(pq.read_table(_path(run.settings, spec)), run.settings.max_rows).to_pylist():
        for number, said in enumerate(spec.said(row)):
            cells = run.labeller.row(said, origin, run.settings.max_chars)
            if cells is None:
                continue
            _note(name, said, cells, row, run)
            yield {
                **cells,
                "id": f"{row['id']}-{number}" if number else row["id"],
                "lang": row["lang"],
                "split": row["split"],
            }


def _spread(table: pa.Table, num: int | None) -> pa.Table:
    """`num` rows, evenly spread: sets may be sorted."""
    return table if num is None or num >= len(table) else table.take(np.linspace(0, len(table) - 1, num).astype(int))


def _note(name: str, said: Said, cells: dict[str, Any], row: dict[str, Any], run: _Run) -> None:
    """Remember short opinions to pair, reviews to cut, and what patterns are worth where a set knows better."""
    if MIXED_OF.get(row["lang"]) == name and cells["sentiment"]:
        run.short[row["lang"], row["split"]][cells["sentiment"]].append(cells["text"])
    if name in PIECES_OF:
        run.whole[name, row["split"]].append(cells["text"])
    if name in run.taxonomies["topics"].complete and said.values is not None:
        marker = run.labeller.markers["topics"]
        run.tally.add(name, marker.by_set(name, said.values), marker.by_words(said.text))


def _written(run: _Run) -> Iterator[dict[str, Any]]:
    topics, intents = run.taxonomies["topics"].names, run.taxonomies["intents"].names
    texts = written(Path(run.settings.phrases), topics, intents, run.settings.seed)
    for number, (said, lang, split) in enumerate(texts):
        yield from _generated(said, Origin(PHRASES, is_feedback=False), f"{PHRASES}-{number}", (lang, split), run)


def _mixed(run: _Run) -> Iterator[dict[str, Any]]:
    rng, number = random.Random(run.settings.seed), 0  # noqa: S311 - no secret
    for (lang, split), parts in run.short.items():
        for said in joined(parts, lang, NUM_MIXED[split], rng):
            yield from _generated(said, Origin(MIXED, is_feedback=True), f"{MIXED}-{number}", (lang, split), run)
            number += 1


def _pieces(run: _Run) -> Iterator[dict[str, Any]]:
    rng = random.Random(run.settings.seed)  # noqa: S311 - no secret
    for (name, split), texts in run.whole.items():
        for number, text in enumerate(pieces(texts, NUM_PIECES[split], rng)):
            yield {"id": f"{name}-{split}-{number}", "text": text, "lang": "en", "split": split}


def _generated(said: Said, origin: Origin, row_id: str, place: tuple[str, str], run: _Run) -> Iterator[dict[str, Any]]:
    cells = run.labeller.row(said, origin, run.settings.max_chars)
    if cells is not None:
        yield {**cells, "id": row_id, "lang": place[0], "split": place[1]}


def _told(known: dict[str, int]) -> str:
    return ", ".join(f"{num} {head}" for head, num in known.items() if num)
