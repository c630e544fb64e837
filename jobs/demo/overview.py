"""What a person sees after the demo: sentiment and topics by brand, weeks of the most affected product, where it is.

Counted from the scores alone. Agreement with the corpus's own truth is shown because the demo has one; a real corpus
doesn't. The full report is another job.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

_BAR = 40
_NUM_TOPICS = 4


def show_overview(out: Path, manifest: dict[str, Any]) -> None:
    """Print the overview of the scores under `out`."""
    scores = ds.dataset(out / "scored" / manifest["scores"], format="parquet").to_table()
    print("\nsentiment by brand (share negative / neutral / positive)")  # noqa: T201
    for brand in sorted(set(scores["brand"].to_pylist())):
        some = scores.filter(pc.equal(scores["brand"], brand))
        shares = [_share(some, label) for label in ("negative", "neutral", "positive")]
        print(f"  {brand:<12}{some.num_rows:>7,}   " + " / ".join(f"{share:5.1%}" for share in shares))  # noqa: T201
    _show_topics(scores)
    _show_weeks(scores, json.loads((out / "facts.json").read_text(encoding="utf-8")))
    _show_agreement(scores, pq.read_table(out / "truth.parquet"))
    print(f"\nplanted facts    {out / 'facts.json'}\ntruth of rows    {out / 'truth.parquet'}")  # noqa: T201


def _show_topics(scores: pa.Table) -> None:
    """What the negative verbatims of each brand are about most; one may be about several things."""
    print("\nwhat negative verbatims are about")  # noqa: T201
    negative = scores.filter(pc.equal(scores["sentiment"], "negative"))
    for brand in sorted(set(scores["brand"].to_pylist())):
        some = negative.filter(pc.equal(negative["brand"], brand))
        counts = Counter(pc.list_flatten(some["topics"]).to_pylist()).most_common(_NUM_TOPICS)
        told = ", ".join(f"{topic} {count / some.num_rows:.0%}" for topic, count in counts)
        print(f"  {brand:<12}{some.num_rows:>7,}   {told}")  # noqa: T201


def _show_weeks(scores: pa.Table, facts: dict[str, Any]) -> None:
    """Negative share by week of the product version that the planted defect is in."""
    defect = next(fact for fact in facts["facts"] if fact["id"] == "battery_overheat")
    some = scores.filter(pc.equal(scores["product"], defect["product"]))
    week = pc.floor_temporal(some["created_at"].cast(pa.timestamp("s", "UTC")), unit="week")
    print(f"\nverbatims and negative share by week, {defect['product']}")  # noqa: T201
    print(f"(planted: a defect of version {defect['version']} from {defect['first_week']})")  # noqa: T201
    for monday in sorted(set(week.to_pylist())):
        of_week = some.filter(pc.equal(week, pa.scalar(monday)))
        share = _share(of_week, "negative")
        print(f"  {monday:%Y-%m-%d} {of_week.num_rows:>5,} {share:6.1%} {'#' * round(share * _BAR)}")  # noqa: T201


def _show_agreement(scores: pa.Table, truth: pa.Table) -> None:
    joined = scores.select(["id", "sentiment"]).join(
        truth.select(["id", "sentiment"]), "id", join_type="inner", right_suffix="_true"
    )
    same = pc.mean(pc.equal(joined["sentiment"], joined["sentiment_true"])).as_py()
    print(f"\nagreement with the corpus's own truth: {same:.1%} of {joined.num_rows:,} verbatims")  # noqa: T201


def _share(rows: pa.Table, label: str) -> float:
    return float(pc.mean(pc.equal(rows["sentiment"], label)).as_py()) if rows.num_rows else 0.0
