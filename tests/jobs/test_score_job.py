"""The scoring job, end to end on a running Ray: counts, columns, resume, and what must never mix."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.score import run as run_module
from jobs.score.ledger import OtherRunError
from jobs.score.settle import IncompleteError
from models.bundle import load_bundle
from models.clean import clean
from models.scorer import Scorer
from tests.jobs.conftest import Score, object_bytes, read_rejected, read_scores
from tests.tiny import tiny_bundle

pytestmark = pytest.mark.ray

ROWS = [{"id": f"r{i:04}", "text": f"质量{'很' * (i % 7)}好 no {i % 90}", "product": f"p{i % 3}"} for i in range(300)]


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write_lines(tmp_path / "in" / "a.jsonl", ROWS[:200])
    write_lines(tmp_path / "in" / "b.jsonl", ROWS[200:])
    return tmp_path / "in"


def test_every_row_gets_the_score_of_its_text(score: Score, corpus: Path, tiny: Path) -> None:
    manifest = score(corpus, columns={"id": "id", "text": "text", "product": "product"})
    assert {key: manifest[key] for key in ("rows_in", "rows_scored", "rows_rejected", "units")} == {
        "rows_in": 300,
        "rows_scored": 300,
        "rows_rejected": 0,
        "units": 6,
    }
    scores = read_scores(manifest)
    assert scores.column_names == [
        "id",
        *("sentiment", "prob_negative", "prob_neutral", "prob_positive"),
        *("lang", "num_tokens", "truncated"),
        *("stars", "prob_stars_1", "prob_stars_2", "prob_stars_3", "prob_stars_4", "prob_stars_5"),
        "product",
    ]
    assert scores["id"].to_pylist() == [row["id"] for row in ROWS]
    assert scores["product"].to_pylist() == [row["product"] for row in ROWS]
    bundle = load_bundle(tiny)
    tokens = bundle.tokeniser.encode([clean(row["text"]) for row in ROWS])
    alone = Scorer(bundle, token_budget=1).score(tokens)
    for name in alone.column_names:
        if name == "sentiment":
            assert scores[name].to_pylist() == alone[name].to_pylist()
        else:
            assert scores[name].to_numpy() == pytest.approx(alone[name].to_numpy(), abs=1e-5)


def test_a_second_run_has_nothing_to_do(score: Score, corpus: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = score(corpus)
    before = object_bytes(first)
    caplog.set_level("INFO")
    assert score(corpus) == first
    assert object_bytes(first) == before
    assert "nothing to do: all 6 units" in caplog.text


def test_only_missing_units_are_done_again_and_to_the_same_bytes(score: Score, corpus: Path) -> None:
    first = score(corpus)
    before = object_bytes(first)
    lost = sorted(before)[1::2]
    for name in lost:
        (Path(first["output"]) / name).unlink()
    half_written = Path(first["output"]) / first["scores"] / ".put-1-2"
    half_written.write_bytes(b"PAR1")
    second = score(corpus)
    assert not half_written.exists()
    assert second["units_this_run"] == len(lost)
    assert second["rows_scored"] == 300
    assert object_bytes(second) == before


def test_another_bundle_is_another_set(score: Score, corpus: Path, tmp_path: Path) -> None:
    first = score(corpus)
    other = tiny_bundle(tmp_path / "other", seed=1)
    second = score(corpus, bundle=str(other.folder))
    assert first["scores"] != second["scores"]
    assert read_scores(first).num_rows == read_scores(second).num_rows == 300
    assert read_scores(first)["prob_positive"] != read_scores(second)["prob_positive"]
    current = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert current["bundle"] == str(other)


def test_another_option_is_another_set(score: Score, corpus: Path) -> None:
    assert score(corpus)["fingerprint"] != score(corpus, precision="bf16")["fingerprint"]


def test_only_the_heads_that_are_asked_for_answer(score: Score, corpus: Path) -> None:
    every, stars = score(corpus), score(corpus, heads=["stars"])
    assert every["scores"] != stars["scores"]
    assert not [name for name in read_scores(stars).column_names if "sentiment" in name or name == "prob_positive"]
    assert read_scores(stars)["stars"].equals(read_scores(every)["stars"])
    with pytest.raises(ValueError, match=r"heads \['topics'\] aren't among those of bundle tiny@.*'stars'"):
        score(corpus, heads=["topics"])


def test_a_changed_text_under_an_old_id_is_scored_again(score: Score, corpus: Path, tmp_path: Path) -> None:
    first = score(corpus)
    old = read_scores(first)
    write_lines(corpus / "b.jsonl", [{**ROWS[200], "text": "完全 different now"}, *ROWS[201:]])
    second = score(corpus)
    assert (second["fingerprint"], second["units_this_run"]) == (first["fingerprint"], 2)
    new = read_scores(second)
    assert new["id"] == old["id"], "no row twice, none missing"
    moved = np.abs(old["prob_positive"].to_numpy() - new["prob_positive"].to_numpy())
    assert np.flatnonzero(moved > 1e-5).tolist() == [200]
    assert second["units_superseded"] == 2
    kept = pa.concat_tables(pq.read_table(path) for path in (tmp_path / "out" / "superseded").rglob("*.parquet"))
    assert kept.num_rows == 100


def test_new_files_are_added_and_vanished_ones_taken_out(score: Score, corpus: Path) -> None:
    score(corpus)
    write_lines(corpus / "c.jsonl", [{"id": "new", "text": "快"}])
    (corpus / "a.jsonl").unlink()
    manifest = score(corpus)
    assert manifest["units_this_run"] == 1
    assert read_scores(manifest)["id"].to_pylist() == ["new", *(row["id"] for row in ROWS[200:])]


def test_rejected_rows_are_kept_with_reason_and_place(score: Score, tmp_path: Path) -> None:
    rows: list[Any] = [
        *ROWS[:3],
        {"id": None, "text": "好"},
        {"id": "e", "text": " \t"},
        {"id": "n", "text": None},
        {"id": "z", "text": "<br>&nbsp;"},
        {"id": "r0001", "text": "again"},
        {"id": "z", "text": "the first row of this id has no text, so this one counts"},
    ]
    path = write_lines(tmp_path / "in" / "a.jsonl", rows)
    with path.open("ab") as file:
        file.write(b'{"id": "broken", "text": \n{"id": "latin", "text": "caf\xe9"}\n')
    manifest = score(tmp_path / "in", max_rejected_share=0.8)
    assert (manifest["rows_in"], manifest["rows_scored"], manifest["rows_rejected"]) == (11, 4, 7)
    assert [(row["file"], row["row"], row["reason"]) for row in read_rejected(manifest)] == [
        ("a.jsonl", 3, "null_id"),
        ("a.jsonl", 4, "empty_text"),
        ("a.jsonl", 5, "null_text"),
        ("a.jsonl", 6, "empty_text"),
        ("a.jsonl", 7, "duplicate_id"),
        ("a.jsonl", 9, "bad_json"),
        ("a.jsonl", 10, "invalid_utf8"),
    ]
    assert score(tmp_path / "in", max_rejected_share=0.8) == manifest, "null ids don't disturb a second run"


def test_a_file_that_changes_while_it_is_read(score: Score, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_module.score

    def score_and_change(*given: Any) -> Any:
        effort = whole(*given)
        write_lines(corpus / "b.jsonl", ROWS[200:299])
        return effort

    monkeypatch.setattr(run_module, "score", score_and_change)
    with pytest.raises(IncompleteError, match=r"1 input files changed during the run, first b\.jsonl: run it again"):
        score(corpus)
    monkeypatch.undo()
    assert read_scores(score(corpus)).num_rows == 299


def test_a_quoted_text_is_clean_and_masked(score: Score, tmp_path: Path) -> None:
    rows = [
        {"id": "a", "text": "请联系１３８ 0013 8000，<b>谢谢</b>", "note": "x"},
        {"id": "b", "text": "mail me@example.org"},
    ]
    write_lines(tmp_path / "in" / "a.jsonl", rows)
    scores = read_scores(score(tmp_path / "in", columns={"id": "id", "text": "text", "quote": "text", "note": "note"}))
    assert scores["quote"].to_pylist() == ["请联系[PHONE], 谢谢", "mail [EMAIL]"]
    assert scores["note"].to_pylist() == ["x", None]
    stored = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"13800138000" not in stored
    assert b"0013 8000" not in stored


def test_too_many_rejected_rows_leave_no_manifest(score: Score, tmp_path: Path) -> None:
    write_lines(tmp_path / "in" / "a.jsonl", [*ROWS[:8], {"id": "e", "text": ""}, {"id": "f", "text": ""}])
    with pytest.raises(IncompleteError, match=r"2 of 10 rows were rejected, over max_rejected_share 0\.1"):
        score(tmp_path / "in", max_rejected_share=0.1)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert score(tmp_path / "in", max_rejected_share=0.2)["units_this_run"] == 0, "accepting them needs no new work"
    with pytest.raises(IncompleteError, match="2 of 10 rows were rejected"):
        score(tmp_path / "in", max_rejected_share=0.1)


def test_ids_that_come_again_in_another_file_are_counted(score: Score, tmp_path: Path) -> None:
    write_lines(tmp_path / "in" / "a.jsonl", ROWS[:5])
    write_lines(tmp_path / "in" / "b.jsonl", ROWS[3:9])
    manifest = score(tmp_path / "in")
    assert (manifest["rows_scored"], manifest["repeated_ids"]) == (11, 2)


def test_a_giant_text_among_tiny_ones(score: Score, tmp_path: Path) -> None:
    giant = {"id": "giant", "text": "质量 good " * 120_000}
    write_lines(tmp_path / "in" / "a.jsonl", [*ROWS[:20], giant, *ROWS[20:40]])
    scores = {row["id"]: row for row in read_scores(score(tmp_path / "in")).to_pylist()}
    assert len(scores) == 41
    assert scores["giant"]["truncated"]
    assert scores["giant"]["num_tokens"] == 64
    assert not scores["r0000"]["truncated"]


def test_rejected_rows_of_old_input_leave_with_it(score: Score, corpus: Path) -> None:
    """A kill between a unit's rejected rows and its scores leaves the first without the second."""
    first = score(corpus)
    orphan = Path(first["output"]) / first["rejected"] / f"{'0' * 16}-{'1' * 16}-000000z.parquet"
    orphan.parent.mkdir(parents=True)
    pq.write_table(pa.table({"reason": ["null_id"]}), orphan)
    write_lines(corpus / "c.jsonl", [{"id": "new", "text": "快"}])
    score(corpus)
    assert not orphan.exists()
    assert (Path(first["output"]) / "superseded" / first["rejected"] / orphan.name).exists()


def test_an_output_of_another_program_is_left_alone(score: Score, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text('{"name": "a web app"}')
    with pytest.raises(OtherRunError, match=r"manifest\.json isn't this program's manifest"):
        score(corpus)
    assert (tmp_path / "out" / "manifest.json").read_text() == '{"name": "a web app"}'


def test_an_empty_file_is_a_unit_of_no_rows(score: Score, tmp_path: Path) -> None:
    write_lines(tmp_path / "in" / "a.jsonl", [])
    write_lines(tmp_path / "in" / "b.jsonl", ROWS[:2])
    manifest = score(tmp_path / "in")
    assert (manifest["units"], manifest["rows_in"]) == (2, 2)
    assert score(tmp_path / "in") == manifest


def test_the_token_budget_is_found_once_and_kept(score: Score, corpus: Path, tmp_path: Path) -> None:
    score(corpus, token_budget=None)
    (path,) = (tmp_path / "out").glob("ledger/*/*/ledger.json")
    found = json.loads(path.read_text())["execution"]["token_budget"]
    assert found >= 512
    path.write_text(path.read_text().replace(f'"token_budget": {found}', '"token_budget": 777'))
    (tmp_path / "out" / "manifest.json").unlink()
    unit = min((tmp_path / "out").glob("scores/*/*/*.parquet"))
    unit.unlink()
    assert score(corpus, token_budget=None)["units_this_run"] == 1
    assert json.loads(path.read_text())["execution"]["token_budget"] == 777, (
        "a set goes on with what its first run found"
    )
