"""The benchmark's modes from end to end at tiny sizes, and what its command line says to wrong input."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jobs.benchmark import __main__ as command
from jobs.benchmark import arena, engine, gpu, roster
from jobs.benchmark.contender import Entry
from jobs.benchmark.gpu import GpuOptions, lengths_of_mean, run_gpu
from jobs.benchmark.install import commands
from jobs.benchmark.job import JobOptions, Unit, run_job, steady
from jobs.benchmark.memory import stream
from jobs.benchmark.model import Shape, bundled_model, random_model
from jobs.benchmark.row import Runs
from jobs.benchmark.work import Work, made_up
from models.bundle import load_bundle
from models.huggingface import make_bundle
from models.scorer import Scorer
from models.tokeniser import Tokens

TINY = Shape(layers=1, hidden=16, heads=2, max_length=64)
TINY_FLAGS = ["--layers", "1", "--hidden", "16", "--heads", "2", "--threads", "1"]


@pytest.fixture
def feedback(tmp_path: Path) -> Path:
    """120 distinct texts, no two neighbours of one length."""
    rows = [f"{number} " + "good " * (number * 7 % 30) for number in range(120)]
    pq.write_table(pa.table({"text": rows}), tmp_path / "feedback.parquet")
    return tmp_path / "feedback.parquet"


def tokens(work: Work) -> Tokens:
    return Tokens(work.ids, work.lengths, np.zeros(len(work), np.bool_))


class TestCommandLine:
    def run(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
        code = command.main(arguments)
        return code, capsys.readouterr().err

    def test_an_unknown_mode(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            command.main(["serv"])
        assert stop.value.code == 2
        assert "invalid choice: 'serv'" in capsys.readouterr().err

    def test_a_count_of_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            command.main(["engine", "--rounds", "0"])
        assert "--rounds: must be at least 1, got 0" in capsys.readouterr().err

    def test_no_texts(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        code, said = self.run(capsys, "engine", *TINY_FLAGS, "--peers", "none", "--texts", str(tmp_path))
        assert code == 2
        assert "TextsError: texts" in said
        assert "holds no .parquet file" in said

    def test_no_environment_for_the_peers(
        self, capsys: pytest.CaptureFixture[str], feedback: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(roster, "BENCH_PYTHON", feedback.parent / "bin" / "python")
        code, said = self.run(
            capsys, "engine", *TINY_FLAGS, "--peers", "infinity", "--texts", str(feedback), "--num-texts", "5"
        )
        assert code == 2
        assert "make it with `python -m jobs.benchmark peers`" in said

    def test_unknown_peers_and_precisions(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run(capsys, "engine", "--peers", "vllm")[0] == 2
        assert self.run(capsys, "engine", "--precisions", "fp64")[0] == 2
        assert self.run(capsys, "job", "--precision", "fp64")[0] == 2

    def test_threads_that_don_t_divide_among_actors(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, said = self.run(capsys, "job", "--threads", "3", "--actor-threads", "2")
        assert (code, said) == (2, "ValueError: threads 3 must be a multiple of actor_threads 2\n")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
    def test_gpu_mode_without_a_gpu(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, said = self.run(capsys, "gpu")
        assert code == 2
        assert "gpu mode needs a CUDA device, but torch" in said

    def test_peers_are_installed_from_pins_and_infinity_without_its_own(self) -> None:
        pinned, infinity = commands(Path("python"), Path("/checkout"))
        assert (
            pinned[-5:]
            == [
                "-c",
                "/checkout/constraints.txt",
                "-c",
                "/checkout/constraints-bench.txt",
                "-e",
                "/checkout[bench]",
            ][-5:]
        )
        assert infinity[-2:] == ["--no-deps", "infinity-emb==0.0.78"]


class TestModel:
    def test_the_same_seed_gives_the_same_weights(self, tmp_path: Path) -> None:
        first, same, other = (
            random_model(tmp_path / name, TINY, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
        )
        assert first.bundle.digest == same.bundle.digest != other.bundle.digest

    @pytest.mark.slow
    def test_the_hugging_face_folder_is_the_same_model(self, tmp_path: Path) -> None:
        model = random_model(tmp_path / "model", TINY)
        (tmp_path / "again").mkdir()
        again = make_bundle(model.hf_folder, tmp_path / "again", "again")
        work = made_up(np.array([3, 64, 9]), model.architecture.vocab_size)
        ours, theirs = (Scorer(bundle, token_budget=100).score(tokens(work)) for bundle in (model.bundle, again))
        assert ours.equals(theirs)
        probs = np.stack([ours[name].to_numpy() for name in ours.column_names if name.startswith("prob_")])
        assert probs.std(axis=1).max() > 1e-3  # texts differ, so mix-ups show

    def test_a_temperature_is_part_of_the_exported_classifier(self, tmp_path: Path, tiny: Path) -> None:
        from safetensors.torch import load_file  # noqa: PLC0415

        model = bundled_model(tmp_path / "model", str(tiny))
        assert not model.is_random
        exported = load_file(model.hf_folder / "model.safetensors")
        head = load_bundle(tiny).tensors()["heads.sentiment.weight"]
        assert torch.equal(exported["classifier.weight"], head / 1.5)


class TestEngine:
    @pytest.mark.slow
    def test_ours_alone(self, tmp_path: Path, feedback: Path, capsys: pytest.CaptureFixture[str]) -> None:
        target = tmp_path / "rows.json"
        flags = ["--texts", str(feedback), "--num-texts", "100", "--rounds", "2", "--precisions", "fp32,bf16"]
        assert command.main(["engine", *TINY_FLAGS, *flags, "--peers", "none", "--json", str(target)]) == 0
        fp32, bf16 = json.loads(target.read_text())
        assert (fp32["name"], bf16["name"]) == ("verbatim-fp32", "verbatim-bf16")
        assert fp32["num_texts"] == bf16["num_texts"] == 100
        assert fp32["num_tokens"] == bf16["num_tokens"] > 1000
        assert fp32["max_prob_diff"] == 0 < bf16["max_prob_diff"] < 0.05
        assert fp32["docs_per_s_low"] <= fp32["docs_per_s"] <= fp32["docs_per_s_high"]
        assert fp32["tokens_per_s"] == pytest.approx(fp32["docs_per_s"] * fp32["num_tokens"] / 100)
        assert 0 < fp32["limit_share"] < 1
        assert fp32["ratio_to"].keys() == {"verbatim-bf16"}
        shown = capsys.readouterr().out
        assert "verbatim-bf16" in shown
        assert "tokenising alone" in shown

    @pytest.mark.slow
    def test_one_that_can_t_load_or_disagrees_is_said_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        doubles = [
            replace(roster.ours("fp32"), name="verbatim-fp32"),
            Entry("wrong", "tests.jobs.test_benchmark_modes:Wrong", packages=()),
            Entry("broken", "jobs.benchmark.peers.double:Broken", packages=()),
        ]
        monkeypatch.setattr(arena, "python_of", lambda entry: roster.python_of(replace(entry, is_ours=True)))
        model = random_model(tmp_path / "model", TINY)
        place = arena.Arena(model, made_up(np.full(10, 8), model.architecture.vocab_size), tmp_path, threads=1)
        with place.open(doubles):
            place.play(2)
            results = {runs.name: runs for runs in place.results()}
        assert results.keys() == {"verbatim-fp32", "wrong"}
        assert len(results["wrong"].seconds) == 2
        assert results["wrong"].note.startswith("ITS ANSWERS DIFFER FROM OURS; a double; batch ")
        assert "DIFFER" not in results["verbatim-fp32"].note
        assert place.left_out == {"broken": "ValueError: model_type 'double' is not supported"}

    def test_ours_with_tokenising_only_where_a_peer_needs_it(self) -> None:
        def names(entries: Sequence[Entry]) -> list[str]:
            return [entry.name for entry in entries]

        assert names(engine.entries(["bf16", "fp32"], ())) == ["verbatim-fp32", "verbatim-bf16"]
        assert names(engine.entries(["bf16"], roster.choose_peers("infinity"))) == [
            "verbatim-bf16",
            "verbatim-bf16+tokenise",
            "infinity",
        ]


class Wrong:
    """Gives every text the same three probabilities."""

    def __new__(cls, *arguments: object) -> object:
        from jobs.benchmark.contender import Answer  # noqa: PLC0415
        from jobs.benchmark.peers.double import Known  # noqa: PLC0415

        known = Known(*arguments)  # type: ignore[arg-type]
        known.score = lambda work, setting: Answer(np.tile(np.float32([1, 0, 0]), (len(work), 1)), 0)  # type: ignore
        return known


class TestJob:
    @pytest.mark.slow
    @pytest.mark.ray
    def test_runs_the_job_beside_the_engine(
        self, feedback: Path, ray_address: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RAY_ADDRESS", ray_address)
        options = JobOptions("fp32", threads=1, shape=TINY, texts=feedback, num_texts=100)
        rows = run_job(options)
        own, job = rows.rows
        assert (own.name, job.name) == ("verbatim-fp32", "job-fp32")
        assert 0 < job.num_texts < 100  # the first unit isn't part of the steady state
        assert job.ratio_to["verbatim-fp32"] == pytest.approx(job.tokens_per_s / own.tokens_per_s)
        assert rows.facts["units"] == 20  # 4 files of 25 rows, units of 6

    def test_the_steady_state_begins_when_every_actor_has_done_a_unit(self, tmp_path: Path) -> None:
        model = random_model(tmp_path / "model", TINY)
        work = made_up(np.full(100, 10), model.architecture.vocab_size)
        units = [Unit(10.0, 20, 200), Unit(11.0, 20, 200), Unit(13.0, 20, 200), Unit(14.0, 40, 400)]
        runs = steady(units, JobOptions("fp32", threads=2), model, work)
        assert (runs.seconds, runs.num_texts, runs.num_tokens) == ((3.0,), 60, 600)

    def test_too_few_units(self, tmp_path: Path) -> None:
        model = random_model(tmp_path / "model", TINY)
        work = made_up(np.full(3, 10), model.architecture.vocab_size)
        with pytest.raises(ValueError, match="num_texts 3 made 3 units for 2 actors: too few to measure"):
            steady([Unit(1.0, 1, 10)] * 3, JobOptions("fp32", threads=2), model, work)


class TestGpu:
    OPTIONS = GpuOptions(shape=TINY, budgets=(64, 256), replicas=(2,), means=(20,), num_tokens=400)

    @pytest.mark.slow
    def test_sweeps_budgets_then_replicas(self) -> None:
        result = run_gpu(self.OPTIONS, device="cpu")
        *alone, together = result.rows
        assert [row.name for row in alone] == [f"verbatim-bf16 mean 20 budget {budget} x1" for budget in (64, 256)]
        best = max(alone, key=lambda row: row.tokens_per_s)
        assert together.name == best.name.replace("x1", "x2")
        assert together.num_texts == 2 * best.num_texts == 40
        assert all(row.limit_share for row in result.rows)
        assert "(at most 0.0001)" in str(result.facts["parity fp32"])
        assert "of measured" in str(result.facts["mean 20, best"])

    def test_begins_nothing_new_after_its_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gpu, "_replicas", lambda *_: nullcontext([]))
        bench = gpu.Bench(random_model(tmp_path / "model", TINY), tmp_path, "cuda", self.OPTIONS, ends_at=0.0)
        assert list(gpu.sweep(bench)) == []
        assert bench.facts["left out"] == ["mean 20 from budget 64 on", "with 2 processes or more"]

    def test_wrong_answers_end_the_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        given = {"cpu": np.float32([[0.5, 0.5]]), "cuda": np.float32([[0.4, 0.6]])}
        monkeypatch.setattr(gpu, "_probs", lambda bench, precision, device, work: given[device])
        bench = gpu.Bench(random_model(tmp_path / "model", TINY), tmp_path, "cuda", self.OPTIONS, 0.0)
        with pytest.raises(ValueError, match=r"parity fp32: probabilities differ by 1\.0e-01, over 0\.0001"):
            gpu.check_parity(bench)

    @pytest.mark.parametrize("mean", [50, 128])
    def test_lengths_have_the_mean_and_the_spread_of_feedback(self, mean: int) -> None:
        lengths = lengths_of_mean(mean, 5000, 512)
        assert lengths.mean() == pytest.approx(mean, abs=1)
        assert np.median(lengths) < 0.8 * mean
        assert lengths.max() <= 512

    def test_mfu_is_given_against_both_limits(self, tmp_path: Path) -> None:
        model = random_model(tmp_path / "model", TINY)
        bench = gpu.Bench(model, tmp_path, "cuda", replace(self.OPTIONS, means=(50,)), 0.0, limit=800e12)
        bench.facts["device"] = "NVIDIA H200"
        runs = Runs("verbatim-bf16 mean 50 budget 64 x1", (1.0,), 1, 50, 50, 0, flops=round(494.5e12))
        rows = [gpu.make_row(runs, [800e12])]
        assert gpu._best_facts(bench, rows) == {
            "mean 50, best": "50 tokens/s, MFU 61.8% of measured, 50.0% of nominal 989 TFLOP/s"
        }


class TestMemory:
    @pytest.mark.slow
    def test_ten_samples(self, tiny: Path) -> None:
        samples = list(stream(load_bundle(tiny), "fp32", 95, threads=1))
        assert [sample.num_texts for sample in samples] == [9, 19, 28, 38, 47, 57, 66, 76, 85, 95]
        assert all(sample.rss_bytes > 10_000_000 for sample in samples)

    def test_too_few_texts(self, tiny: Path) -> None:
        with pytest.raises(ValueError, match="num_texts must be at least 10, one a sample, got 9"):
            next(stream(load_bundle(tiny), "fp32", 9, threads=1))
