"""The benchmark around its contenders: work, statistics, tables, texts, the workers' protocol."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.benchmark import roster, texts
from jobs.benchmark.client import Worker, WorkerError
from jobs.benchmark.contender import Entry, padded_batches, rectangle, softmax
from jobs.benchmark.memory import Sample, growth, is_flat, short_texts
from jobs.benchmark.plot import LENGTHS, Point, draw, lines, require_matplotlib
from jobs.benchmark.row import Row, Runs, make_row, ratio, write_rows
from jobs.benchmark.table import ratios, table
from jobs.benchmark.work import Work, load_work, made_up, thin
from models.bundle import load_bundle

WORK = Work(np.arange(10, 20, dtype=np.int32), np.array([3, 1, 4, 2], np.int32), ("aaa", "b", "cccc", "dd"))


def runs(name: str, *seconds: float, slots: int = 0, flops: int | None = None) -> Runs:
    return Runs(name, seconds, num_texts=100, num_tokens=4000, slots=slots, peak_bytes=7, flops=flops)


def row(name: str, docs_per_s: float, **more: object) -> Row:
    plain = {
        "tokens_per_s": docs_per_s * 40,
        "padding_share": None,
        "limit_share": None,
        "peak_bytes": 3_000_000,
        "docs_per_s_low": docs_per_s,
        "docs_per_s_high": docs_per_s,
        "seconds": 1.0,
        "num_texts": 10,
        "num_tokens": 400,
    }
    return Row(name, docs_per_s, **{**plain, **more})  # type: ignore[arg-type]


class TestWork:
    def test_picks_texts_with_their_tokens(self) -> None:
        picked = WORK.pick(np.array([2, 1]))
        assert picked.ids.tolist() == [14, 15, 16, 17, 13]
        assert picked.lengths.tolist() == [4, 1]
        assert picked.texts == ("cccc", "b")
        assert WORK.pick(np.array([], np.int64)).num_tokens == 0

    def test_comes_back_from_its_files(self, tmp_path: Path) -> None:
        WORK.save(tmp_path / "work")
        found = load_work(tmp_path / "work")
        assert (found.ids.tolist(), found.lengths.tolist(), found.texts) == (
            WORK.ids.tolist(),
            WORK.lengths.tolist(),
            WORK.texts,
        )

    def test_thinning_keeps_the_distribution_of_lengths(self) -> None:
        lengths = np.random.default_rng(0).permutation(np.arange(1, 101))
        assert sorted(lengths[thin(lengths, 10)]) == [6, 16, 26, 36, 46, 56, 66, 76, 86, 96]
        assert thin(lengths, 1000).tolist() == list(range(100))

    def test_made_up_tokens_are_plain_words_of_the_vocabulary(self) -> None:
        work = made_up(np.array([5, 7]), vocab_size=100)
        assert len(work.ids) == 12
        assert 50 <= work.ids.min() <= work.ids.max() < 100


class TestPaddedBatches:
    def test_rows_times_longest_stay_within_the_budget(self) -> None:
        assert [batch.tolist() for batch in padded_batches(WORK.lengths, 6)] == [[2], [0, 3], [1]]

    def test_a_text_over_the_budget_goes_alone(self) -> None:
        assert [batch.tolist() for batch in padded_batches(WORK.lengths, 1)] == [[2], [0], [3], [1]]

    def test_rectangle_pads_with_zeros(self) -> None:
        ids, mask = rectangle(WORK, np.array([3, 0]))
        assert ids.tolist() == [[18, 19, 0], [10, 11, 12]]
        assert mask.tolist() == [[1, 1, 0], [1, 1, 1]]

    def test_softmax(self) -> None:
        probs = softmax(np.array([[0.0, 0.0], [1000.0, 0.0]]))
        assert probs.tolist() == [[0.5, 0.5], [1.0, 0.0]]


class TestRow:
    def test_sums_up_rounds_as_medians(self) -> None:
        made = make_row(runs("a", 1.0, 4.0, 2.0, slots=5000, flops=600), [100, 100, 200], price_per_hour=0.36)
        assert (made.docs_per_s, made.docs_per_s_low, made.docs_per_s_high) == (50, 25, 100)
        assert (made.seconds, made.tokens_per_s) == (2.0, 2000)
        assert made.padding_share == pytest.approx(0.2)
        assert made.limit_share == pytest.approx(1.5)  # of 6, 1.5 and 1.5
        assert made.cost_per_million_texts == pytest.approx(2.0)

    def test_what_isn_t_known_is_none(self) -> None:
        made = make_row(runs("a", 1.0))
        assert (made.padding_share, made.limit_share, made.cost_per_million_texts) == (None, None, None)

    def test_ratios_are_taken_within_a_round(self) -> None:
        assert ratio(runs("a", 1.0, 10.0, 2.0), runs("b", 3.0, 20.0, 8.0)) == 3

    def test_json_is_a_list_with_the_promised_fields(self, tmp_path: Path) -> None:
        write_rows(tmp_path / "rows.json", [make_row(runs("a", 1.0, slots=4000), ratio_to={"b": 2.0})])
        (found,) = json.loads((tmp_path / "rows.json").read_text())
        assert found["ratio_to"] == {"b": 2.0}
        assert {"name", "docs_per_s", "tokens_per_s", "padding_share", "limit_share", "peak_bytes"} <= found.keys()


class TestTable:
    def test_is_aligned_and_fastest_first(self) -> None:
        shown = table([row("slow", 50.0, note="one by one"), row("verbatim-bf16", 1234.5, limit_share=0.614)])
        assert shown.splitlines() == [
            "name           docs/s    low   high  tokens/s  padding  of limit  peak MB  prob diff",
            "verbatim-bf16   1,234  1,234  1,234    49,380        -     61.4%        3          -",
            "slow             50.0   50.0   50.0     2,000        -         -        3          -",
            "",
            "slow: one by one",
        ]

    def test_cost_stands_there_if_a_price_is_known(self) -> None:
        first, second, *_ = table([row("a", 50.0, cost_per_million_texts=1.255)]).splitlines()
        assert first.endswith("cost/M")
        assert second.endswith("1.25")

    def test_ratios_by_precision(self) -> None:
        rows = [row("verbatim-bf16", 9.0, ratio_to={"p": 3.0}), row("verbatim-int8", 12.0, ratio_to={"p": 4.0, "q": 2})]
        assert ratios(rows).splitlines() == [
            "ours / peer  verbatim-bf16  verbatim-int8",
            "p                   3.00 x         4.00 x",
            "q                        -         2.00 x",
        ]
        assert ratios([row("p", 3.0)]) == ""


class TestPlot:
    def test_draws_ours_and_the_fastest_of_each_library_that_takes_tokens(self) -> None:
        rows = [
            row("verbatim-bf16", 5),
            row("verbatim-bf16+tokenise", 5),
            row("transformers-pipeline", 9),
            row("transformers-fp32-tuned", 2),
            row("transformers-bf16-tuned", 3),
            row("openvino-int8", 4),
            row("infinity", 4),
        ]
        assert lines(rows) == ["verbatim-bf16", "transformers-bf16-tuned", "openvino-int8"]

    def test_writes_a_png(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib", reason="matplotlib is part of the bench extra")
        points = [
            Point(name, length, length * 10.0) for name in ("verbatim-bf16", "openvino-bf16") for length in LENGTHS
        ]
        draw(points, tmp_path / "plot.png", "title")
        assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")

    def test_says_so_where_nothing_can_be_drawn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("jobs.benchmark.plot.find_spec", lambda name: None)
        with pytest.raises(ValueError, match=r"--plot needs matplotlib, .*`pip install -c"):
            require_matplotlib()


class TestTexts:
    @pytest.fixture
    def corpus(self, tmp_path: Path) -> Path:
        for number, some in enumerate((["one", "two", "  ", None], ["two", "three"])):
            pq.write_table(pa.table({"text": pa.array(some, pa.string())}), tmp_path / f"{number}.parquet")
        return tmp_path

    def test_reads_distinct_texts_of_all_files(self, corpus: Path) -> None:
        assert texts.read_texts(corpus) == {"one", "two", "three"}
        assert texts.read_texts(corpus / "0.parquet") == {"one", "two"}

    def test_the_same_seed_samples_the_same(self, corpus: Path) -> None:
        known = {str(number) for number in range(100)}
        first = texts.sample(known, 10, 3, corpus)
        assert first == texts.sample(known, 10, 3, corpus) != texts.sample(known, 10, 4, corpus)

    def test_too_few(self, corpus: Path) -> None:
        with pytest.raises(texts.TextsError, match="3 distinct texts, but num_texts asks for 4"):
            texts.sample(texts.read_texts(corpus), 4, 0, corpus)

    def test_no_files_no_column_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(texts.TextsError, match=r"holds no \.parquet file"):
            texts.read_texts(tmp_path)
        pq.write_table(pa.table({"body": ["x"]}), tmp_path / "other.parquet")
        with pytest.raises(texts.TextsError, match=r"other\.parquet: no Parquet file with a column text"):
            texts.read_texts(tmp_path / "other.parquet")
        with pytest.raises(texts.TextsError, match="absent"):
            texts.read_texts(tmp_path / "absent.parquet")

    def test_none_asked_for(self, tiny: Path) -> None:
        with pytest.raises(texts.TextsError, match="num_texts must be at least 1, got 0"):
            texts.gather(None, load_bundle(tiny), 0, 0)

    def test_long_texts_are_cut_where_their_tokens_are(self, tiny: Path) -> None:
        bundle = load_bundle(tiny)  # one token a character, 64 at most
        work = texts.Cutter(bundle).work(["good " * 50, "ok"])
        assert work.lengths.tolist() == [64, 4]
        assert work.texts == (("good " * 50)[:77], "ok")  # 62 letters and the spaces before them
        assert not bundle.tokeniser.encode(work.texts).truncated.any()

    def test_quantiles_give_lengths(self) -> None:
        assert texts.lengths_at(np.array([0.0, 0.5, 0.975, 1.0])).tolist() == [3, 25, 194, 256]

    def test_made_up_texts_have_the_lengths_of_real_ones(self, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(texts, "REAL", tiny / "absent")
        bundle = load_bundle(tiny)
        work, origin = texts.gather(None, bundle, 200, 0)
        assert origin == "made up at the lengths of real feedback"
        assert len(set(work.texts)) > 190
        expected = np.minimum(texts.lengths_at(np.random.default_rng(0).random(200)), 64)
        assert np.mean(np.abs(work.lengths - expected) <= 1) > 0.95
        again, _ = texts.gather(None, bundle, 200, 0)
        assert again.texts == work.texts


class TestWorker:
    @pytest.fixture
    def work(self, tmp_path: Path) -> Path:
        WORK.save(tmp_path / "work")
        return tmp_path / "work"

    @pytest.fixture
    def known(self, tmp_path: Path) -> Iterator[Worker]:
        with start("Known", tmp_path) as worker:
            yield worker

    def test_loads_tunes_and_runs(self, known: Worker, work: Path, tmp_path: Path) -> None:
        loaded = load(known, work)
        assert loaded == {"note": "a double", "versions": {"numpy": np.__version__}}
        tuned = known.ask(do="tune", work=str(work))
        assert tuned["trials"].keys() == {"1", "2"}
        ran = known.ask(do="run", work=str(work), setting=tuned["setting"], probs=str(tmp_path / "probs.npy"))
        assert ran["slots"] == 40
        assert ran["seconds"] > 0
        assert ran["peak_bytes"] > 10_000_000
        assert np.load(tmp_path / "probs.npy")[:, 0] == pytest.approx([1 / 3, 1, 1 / 4, 1 / 2])

    def test_a_fault_is_an_answer_and_the_process_goes_on(self, known: Worker, work: Path) -> None:
        with pytest.raises(WorkerError, match="ValueError: load comes first"):
            known.ask(do="tune", work=str(work))
        assert load(known, work)["note"] == "a double"

    def test_says_why_a_peer_can_t_load(self, tmp_path: Path, work: Path) -> None:
        with start("Broken", tmp_path) as worker, pytest.raises(WorkerError, match="'double' is not supported"):
            load(worker, work)

    def test_a_process_that_dies_leaves_its_last_words(self, tmp_path: Path) -> None:
        entry = Entry("dead", "jobs.benchmark.peers.double:Known")
        script = tmp_path / "python"
        script.write_text("#!/bin/sh\necho 'no such instruction' >&2\nexit 3\n")
        script.chmod(0o755)
        with Worker(entry, script, 1, tmp_path / "log") as worker, pytest.raises(WorkerError) as error:
            worker.ask(do="load")
        assert str(error.value) == "ended with code 3: no such instruction"


def start(name: str, folder: Path) -> Worker:
    return Worker(Entry(name, f"jobs.benchmark.peers.double:{name}"), Path(sys.executable), 1, folder / "log")


def load(worker: Worker, work: Path) -> dict[str, object]:
    order = {"bundle": "", "hf_folder": "", "scratch": "", "threads": 1}
    return worker.ask(do="load", order=order, calibration=str(work), packages=["numpy", "no-such-package"])


class TestRoster:
    def test_every_peer_has_a_name_of_its_own_and_a_class(self) -> None:
        names = [entry.name for entry in roster.PEERS]
        assert len(set(names)) == len(names) == 10
        folder = Path(roster.__file__).parent
        for entry in roster.PEERS:
            module, _, name = entry.target.partition(":")
            assert f"class {name}:" in (folder / "peers" / f"{module.rpartition('.')[2]}.py").read_text()

    def test_chooses_by_name(self) -> None:
        assert roster.choose_peers("all") == roster.PEERS
        assert roster.choose_peers("none") == ()
        assert [entry.name for entry in roster.choose_peers("infinity, openvino-fp32")] == ["infinity", "openvino-fp32"]

    def test_unknown_names(self) -> None:
        with pytest.raises(
            ValueError, match=r"peers \['vllm'\] aren't known: expected all, none or some of transformers"
        ):
            roster.choose_peers("vllm")
        with pytest.raises(ValueError, match=r"precisions \['fp64'\] aren't known: expected some of fp32, bf16"):
            roster.choose_precisions(["fp64"])

    def test_a_missing_environment_names_the_command(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(roster, "BENCH_PYTHON", tmp_path / ".venv-bench" / "bin" / "python")
        with pytest.raises(ValueError, match=r"\.venv-bench, .* `python -m jobs\.benchmark peers`"):
            roster.python_of(roster.PEERS[0])
        assert roster.python_of(roster.ours("fp32")) == Path(sys.executable)


class TestMemory:
    def test_growth_counts_from_the_fourth_tenth(self) -> None:
        flat = [Sample(index, rss) for index, rss in enumerate((60, 90, 95, 100, 104, 101))]
        assert growth(flat) == 1.04
        assert is_flat(flat)
        assert not is_flat([*flat, Sample(6, 110)])

    def test_short_texts_differ(self) -> None:
        made = short_texts(0, 500)
        assert len(set(made)) == 500
        assert short_texts(100, 3) == made[100:103]
