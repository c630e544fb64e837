"""What a person reads: rows in an aligned table, the ratios below it, and the machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from jobs.benchmark.row import Row

_HEADINGS = ("name", "docs/s", "low", "high", "tokens/s", "padding", "of limit", "peak MB", "prob diff")


def table(rows: Sequence[Row]) -> str:
    """The rows, fastest first."""
    ordered = sorted(rows, key=lambda row: -row.docs_per_s)
    has_cost = any(row.cost_per_million_texts is not None for row in ordered)
    headings = (*_HEADINGS, "cost/M") if has_cost else _HEADINGS
    lines = aligned([headings, *(_cells(row)[: len(headings)] for row in ordered)])
    return "\n".join([*lines, *_notes(ordered)])


def ratios(rows: Sequence[Row]) -> str:
    """How many times as fast as each other contender ours is, by precision."""
    ours = [row for row in rows if row.ratio_to]
    peers = list(dict.fromkeys(name for row in ours for name in row.ratio_to))
    body = [[peer, *(_times(row.ratio_to.get(peer)) for row in ours)] for peer in peers]
    return "\n".join(aligned([["ours / peer", *(row.name for row in ours)], *body])) if ours else ""


def facts(title: str, pairs: Mapping[str, object]) -> str:
    """Label and value, a line each, under a title."""
    return "\n".join([title, *aligned([[f"  {label}", str(value)] for label, value in pairs.items()], left=2)])


def aligned(lines: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Columns as wide as their widest cell; the first `left` flush left, the others right."""
    cells = list(lines)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            _pad(cell, width, index < left) for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def _pad(cell: str, width: int, is_left: bool) -> str:
    return cell.ljust(width) if is_left else cell.rjust(width)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        _speed(row.docs_per_s),
        _speed(row.docs_per_s_low),
        _speed(row.docs_per_s_high),
        f"{row.tokens_per_s:,.0f}",
        _share(row.padding_share),
        _share(row.limit_share),
        f"{row.peak_bytes / 1e6:,.0f}",
        "-" if row.max_prob_diff is None else f"{row.max_prob_diff:.1e}",
        "-" if row.cost_per_million_texts is None else f"{row.cost_per_million_texts:,.2f}",
    )


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    yield ""
    yield from (f"{row.name}: {row.note}" for row in rows if row.note)


def _speed(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} x"
