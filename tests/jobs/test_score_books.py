"""Names, ledger, lease and plan: the bookkeeping of a set of scores, without a cluster."""

import json
import os
import pickle
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.stores import open_store
from jobs.reading.badfiles import BadFile
from jobs.reading.columns import Columns
from jobs.reading.listing import SourceFile
from jobs.reading.parts import UnitLimits
from jobs.reading.rejects import REJECTED_SCHEMA
from jobs.reading.spans import Span
from jobs.score import lease as lease_module
from jobs.score.layout import SetLayout, SpanName, fingerprint, read_done, span_name
from jobs.score.lease import Lease, LeaseError
from jobs.score.ledger import Execution, Ledger, OtherRunError, open_ledger
from jobs.score.plan import make_plan
from jobs.score.recipe import Recipe, SpanTask
from jobs.score.wire import TokenisedUnit
from jobs.score.write import Counts, ScoredUnit, read_counts, write_unit

FILE = SourceFile("a/x.jsonl", "/in/a/x.jsonl", 100, "e1", "jsonl")
SPAN = Span(FILE, 0, 100, None, 0)
EXECUTION = Execution(unit_rows=10, unit_text_bytes=1000, token_budget=64, threads=1)
BOUNDS = {"rows": 10, "text_bytes": 1000}
OPTIONS = {"bundle": "b@1", "precision": "fp32", "columns": {"id": "id", "text": "text", "keep": []}}


def test_names_follow_what_a_unit_is() -> None:
    name = span_name(SPAN, BOUNDS)
    assert name == span_name(SPAN, BOUNDS)
    others = [
        span_name(replace(SPAN, file=replace(FILE, etag="e2")), BOUNDS),
        span_name(replace(SPAN, file=replace(FILE, size_bytes=101)), BOUNDS),
        span_name(replace(SPAN, stop=99), BOUNDS),
        span_name(SPAN, {**BOUNDS, "rows": 11}),
    ]
    assert len({name.span, *(other.span for other in others)}) == 5
    assert {other.file for other in others} == {name.file}
    assert span_name(replace(SPAN, file=replace(FILE, path="b/x.jsonl")), BOUNDS).file != name.file


def test_fingerprint_follows_every_option() -> None:
    seen = {fingerprint(OPTIONS)}
    for key, value in {
        "bundle": "b@2",
        "precision": "bf16",
        "columns": {"id": "i", "text": "text", "keep": []},
    }.items():
        seen.add(fingerprint({**OPTIONS, key: value}))
    assert len(seen) == 4


def test_done_is_read_off_names() -> None:
    name = span_name(SPAN, BOUNDS)
    paths = [f"scores/b@1/f/{name.unit(part, part == 2)}.parquet" for part in (0, 2)]
    done = read_done(paths)
    assert done.of_span(name) == {0, 2}
    assert not done.is_complete(name), "part 1 is missing"
    assert read_done([*paths, f"{name.unit(1, False)}.parquet"]).is_complete(name)
    assert not read_done([f"{name.unit(0, False)}.parquet"]).is_complete(name), "the last part is unknown"


def test_a_foreign_object_among_the_scores_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"part-0\.parquet stands among the scores"):
        read_done(["scores/b@1/f/part-0.parquet"])


def test_plan_subtracts_what_is_done_and_finds_what_is_stale() -> None:
    two = replace(SPAN, file=replace(FILE, path="b/y.jsonl"))
    one_name, two_name = span_name(SPAN, BOUNDS), span_name(two, BOUNDS)
    stale = span_name(replace(SPAN, file=replace(FILE, etag="old")), BOUNDS).unit(0, True)
    vanished = SpanName("0" * 16, "1" * 16).unit(0, True)
    done = read_done([one_name.unit(0, True), two_name.unit(0, False), stale, vanished])
    plan = make_plan([SPAN, two], EXECUTION, done, {})
    assert plan.finished == (SPAN,)
    assert [(task.name, task.done) for task in plan.tasks] == [(two_name, {0})]
    assert plan.superseded == tuple(sorted([stale, vanished]))
    assert plan.valid == tuple(sorted([one_name.unit(0, True), two_name.unit(0, False)]))


def test_a_bad_file_is_bad_as_a_whole() -> None:
    spans = [replace(SPAN, start=0, stop=50), replace(SPAN, start=50, stop=100, first_row=None)]
    first, second = (span_name(span, BOUNDS) for span in spans)
    bad = BadFile(FILE.path, "broken")
    plan = make_plan(spans, EXECUTION, read_done([first.unit(0, True)]), {second.span: bad})
    assert (plan.tasks, plan.finished, plan.valid) == ((), (), ())
    assert plan.bad == {first.span: bad, second.span: bad}
    assert plan.superseded == (first.unit(0, True),)


def layout(tmp_path: Path) -> SetLayout:
    return SetLayout(str(tmp_path / "out"), "b@1", "f")


def test_ledger_fixes_the_execution_of_the_first_run(tmp_path: Path) -> None:
    first = Ledger("s3://in", "b@1", "f", OPTIONS, EXECUTION)
    assert open_ledger(layout(tmp_path), first, write=True) == first
    later = replace(first, execution=replace(EXECUTION, token_budget=9999))
    assert open_ledger(layout(tmp_path), later, write=True) == first


def test_a_dry_run_writes_no_ledger(tmp_path: Path) -> None:
    open_ledger(layout(tmp_path), Ledger("s3://in", "b@1", "f", OPTIONS, EXECUTION), write=False)
    assert not (tmp_path / "out").exists()


def test_an_output_of_another_input_is_refused(tmp_path: Path) -> None:
    first = Ledger("s3://in", "b@1", "f", OPTIONS, EXECUTION)
    open_ledger(layout(tmp_path), first, write=True)
    with pytest.raises(OtherRunError, match=r"scores of another input: s3://in, not s3://other"):
        open_ledger(layout(tmp_path), replace(first, input="s3://other"), write=True)


@pytest.fixture
def quick_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "BEAT_S", 0.1)
    monkeypatch.setattr(lease_module, "WATCH_S", 0.5)


def until(happened: Callable[[], bool]) -> None:
    """Wait for it, on however slow a machine; fail after a minute."""
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.usefixtures("quick_lease")
def test_a_living_lease_refuses_a_second_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "WATCH_S", 60)  # it is seen to live long before that
    store = open_store(str(tmp_path))
    with Lease(store, "lease.json"), pytest.raises(LeaseError, match=f"process {os.getpid()}"):
        Lease(store, "lease.json").__enter__()
    assert store.list() == (), "the holder takes its lease away"


@pytest.mark.usefixtures("quick_lease")
@pytest.mark.parametrize(
    "left_behind",
    [{"host": "elsewhere", "pid": 1, "born": "0"}, {"host": None, "pid": 2**22 - 1, "born": "0"}],
    ids=["a host that renews no more", "a process of this host that ended"],
)
def test_a_dead_lease_is_taken_over(tmp_path: Path, left_behind: dict[str, object]) -> None:
    store = open_store(str(tmp_path))
    host = left_behind["host"] or lease_module.socket.gethostname()
    store.put("lease.json", json.dumps({**left_behind, "host": host, "owner": "x", "beat": 3}).encode())
    with Lease(store, "lease.json"):
        assert json.loads(store.read_bytes("lease.json"))["pid"] == os.getpid()


@pytest.mark.usefixtures("quick_lease")
def test_a_lost_lease_stops_its_run(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with Lease(store, "lease.json") as lease:
        store.put(
            "lease.json", json.dumps({"owner": "another", "host": "h", "pid": 1, "born": "0", "beat": 1}).encode()
        )
        lease._thread.join(timeout=10)
        for ask in (lease.check, lease.confirm):
            with pytest.raises(LeaseError, match="another run took over"):
                ask()
    assert json.loads(store.read_bytes("lease.json"))["owner"] == "another", "not ours to take away"


@pytest.mark.usefixtures("quick_lease")
def test_a_store_that_does_not_answer_for_a_while_loses_no_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(str(tmp_path))
    with Lease(store, "lease.json") as lease:
        with monkeypatch.context() as patch:
            patch.setattr(lease, "_put", lambda: (_ for _ in ()).throw(ConnectionError("no answer")))
            until(lambda: "the lease can't be renewed: no answer" in caplog.text)
        beat = json.loads(store.read_bytes("lease.json"))["beat"]
        until(lambda: json.loads(store.read_bytes("lease.json"))["beat"] > beat)
        lease.confirm()


def test_units_travel_whole() -> None:
    texts = pa.table(
        {"ids": pa.array([[1, 2], [3]], pa.list_(pa.int32())), "truncated": [False, True], "lang": ["zh", "en"]}
    )
    rows = pa.table({"id": ["a", "b", "c"], "text": pa.array([0, 1, 0], pa.int32()), "product": ["p", None, "q"]})
    empty = rows.slice(0, 0)
    unit = TokenisedUnit("name", 3, texts, rows, empty)
    block = unit.to_block()
    assert block.num_rows == 1
    assert TokenisedUnit.from_block(block) == unit


STATS = {"texts": 2, "tokens": 9, "score_s": 0.1, "flops": None, "limit_flops_per_s": None, "halved": 0}


def many_rows_each() -> ScoredUnit:
    """Two verbatims, one with three aspects; a third was rejected."""
    scores = pa.table({"id": ["a", "a", "a", "b"], "aspect": ["price", "service", "taste", "price"]})
    rejected = pa.Table.from_pylist([{"file": "x", "row": 2, "reason": "null_id"}], REJECTED_SCHEMA)
    return ScoredUnit("name", 3, 2, STATS, scores, rejected)


def test_a_verbatim_may_yield_many_rows(tmp_path: Path) -> None:
    unit, place = many_rows_each(), layout(tmp_path)
    receipt = write_unit(unit, place).to_pylist()[0]
    assert (receipt["rows_in"], receipt["rows_scored"], receipt["rows_rejected"]) == (3, 2, 1)
    path = f"{place.scores}/name.parquet"
    assert pq.read_table(tmp_path / "out" / path).to_pydict() == unit.scores.to_pydict()
    assert read_counts(place.root, path) == Counts(3, 2, 1, 2, 9)
    first = place.root.read_bytes(path)
    write_unit(unit, place)
    assert place.root.read_bytes(path) == first, "written twice, it is the same object"


@pytest.mark.parametrize(
    "broken",
    [
        replace(many_rows_each(), scores=many_rows_each().scores.slice(0, 3)),
        replace(many_rows_each(), rows_in=4),
    ],
    ids=["a verbatim's rows are missing", "a row is neither scored nor rejected"],
)
def test_a_unit_that_is_not_whole_is_not_written(tmp_path: Path, broken: ScoredUnit) -> None:
    with pytest.raises(RuntimeError, match="isn't whole, so it isn't written"):
        write_unit(broken, layout(tmp_path))
    assert not (tmp_path / "out").exists()


def test_what_crosses_a_process_can() -> None:
    task = SpanTask(SPAN, span_name(SPAN, BOUNDS), 100, frozenset({1}))
    place = SetLayout("/out", "b@1", "f")
    recipe = Recipe("tiny@1", ("a",), Columns("id", "text"), UnitLimits(), place, "fp32", "cpu", 64, 1)
    for spec in (task, recipe):
        assert pickle.loads(pickle.dumps(spec)) == spec  # noqa: S301 - our own bytes
