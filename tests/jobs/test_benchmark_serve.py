"""The load generator against a small server of known manners, the arithmetic, wrong arguments, and one real run."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.benchmark import __main__ as command
from jobs.benchmark.serve import launches, server
from jobs.benchmark.serve.dialect import LabelDialect, OurDialect
from jobs.benchmark.serve.errors import ServerError
from jobs.benchmark.serve.firing import fire as fire_in_process
from jobs.benchmark.serve.load import Fired, Load, Outcome, arrivals, fire
from jobs.benchmark.serve.overload import settled
from jobs.benchmark.serve.processes import Process, descendants, end, own_bytes
from jobs.benchmark.serve.row import make_row
from jobs.benchmark.serve.server import Launch, free_port, started
from jobs.benchmark.serve.sides import _ratio
from jobs.benchmark.serve.summary import is_refusal, percentile, summarise
from jobs.benchmark.serve.table import table, targets_table
from jobs.benchmark.serve.truth import Checked, Truth, check
from models.bundle import load_bundle

Manners = Callable[[asyncio.StreamWriter, int], Awaitable[None]]


def ok(body: str = "{}", *, status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{more}Content-Length: {len(body)}\r\n\r\n{body}".encode()


async def say_ok(writer: asyncio.StreamWriter, number: int) -> None:
    writer.write(ok(f'{{"n": {number}}}'))


async def fired_at(manners: Manners, **load: object) -> Fired:
    """What comes of a load on a server that does `manners` for its n-th request."""
    count = iter(range(1_000_000))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
                await manners(writer, next(count))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    plain = {"bodies": ("{}",), "seconds": 60.0, "connections": 4, "timeout_s": 5.0, **load}
    try:
        return await fire(Load(port=port, path="/", **plain))  # type: ignore[arg-type]
    finally:
        server.close()


def run(manners: Manners, **load: object) -> Fired:
    return asyncio.run(fired_at(manners, **load))


class TestLoad:
    def test_a_closed_loop_asks_each_body_in_turn_and_no_more_than_told(self) -> None:
        fired = run(say_ok, num_requests=10, bodies=("{}", '{"a": 1}', "[]"))
        assert sorted(one.body for one in fired.outcomes) == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert {one.status for one in fired.outcomes} == {200}
        assert sorted(json.loads(one.answer)["n"] for one in fired.outcomes) == list(range(10))

    def test_a_closed_loop_has_as_many_under_way_as_connections(self) -> None:
        under_way, most = 0, 0

        async def slow(writer: asyncio.StreamWriter, number: int) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.01)
            under_way -= 1
            writer.write(ok())

        run(slow, num_requests=30, connections=5)
        assert most == 5

    def test_arrivals_have_the_rate_and_random_gaps(self) -> None:
        moments = list(arrivals(100.0, 50.0, seed=1))
        assert moments == list(arrivals(100.0, 50.0, seed=1)) != list(arrivals(100.0, 50.0, seed=2))
        gaps = [after - before for before, after in pairwise(moments)]
        mean = sum(gaps) / len(gaps)
        assert mean == pytest.approx(0.01, rel=0.05)
        assert sum(gap > mean for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.03)  # e^-1: exponential
        assert 0 < moments[0] < moments[-1] < 50

    def test_an_open_loop_keeps_its_schedule_whatever_the_server_does(self) -> None:
        async def never_soon(writer: asyncio.StreamWriter, number: int) -> None:
            await asyncio.sleep(0.5)
            writer.write(ok())

        fired = run(never_soon, rate=100.0, seconds=0.3, connections=100, seed=3)
        due = [one.due - fired.began for one in sorted(fired.outcomes, key=lambda one: one.due)]
        assert due == pytest.approx(list(arrivals(100.0, 0.3, seed=3)))
        assert all(one.done - one.due >= 0.5 for one in fired.outcomes)

    def test_latency_counts_from_when_a_request_was_due(self) -> None:
        """One connection and a stall of 300 ms: whoever was due during it waited, though nothing of it was sent."""

        async def stall_once(writer: asyncio.StreamWriter, number: int) -> None:
            await asyncio.sleep(0.3 if number == 0 else 0)
            writer.write(ok())

        fired = run(stall_once, rate=100.0, seconds=0.25, connections=1)
        last = max(fired.outcomes, key=lambda one: one.due)
        stalled_until = min(one.done for one in fired.outcomes)
        assert last.due < stalled_until <= last.sent
        assert last.done - last.due > 5 * (last.done - last.sent)
        late_ms = summarise(fired).late_ms
        assert late_ms is not None
        assert late_ms > 100

    def test_refusals_and_other_answers_are_told_apart(self) -> None:
        answers = [
            ok(),
            ok(status="429 Too Many", more="Retry-After: 2\r\n"),
            ok(status="429 Too Many"),
            ok(status="503 No"),
        ]

        async def in_turn(writer: asyncio.StreamWriter, number: int) -> None:
            writer.write(answers[number % 4])

        summary = summarise(run(in_turn, num_requests=12, connections=1))
        counts = (summary.num_requests, summary.num_answered, summary.num_refused, summary.num_failed, summary.num_lost)
        assert counts == (12, 3, 3, 6, 0)

    def test_what_has_no_whole_answer_is_lost_and_says_how(self) -> None:
        async def in_turn(writer: asyncio.StreamWriter, number: int) -> None:
            if number == 0:
                writer.close()
            elif number == 1:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
                writer.close()
            elif number == 2:
                writer.write(b"garbage\r\n\r\n")
            elif number == 3:
                await asyncio.sleep(1)
            else:
                writer.write(ok())

        fired = run(in_turn, num_requests=6, connections=1, timeout_s=0.3)
        assert [one.status for one in fired.outcomes] == [0, 0, 0, 0, 200, 200]
        faults = [one.fault for one in fired.outcomes[:4]]
        assert faults[0] == faults[1] == "LostError: the server hung up"
        assert faults[2].startswith("LostError: no HTTP: ")
        assert faults[3].startswith("TimeoutError")
        assert summarise(fired).num_lost == 4

    def test_nobody_listens(self) -> None:
        fired = asyncio.run(fire(Load(free_port(), "/", ("{}",), 60.0, 1, num_requests=2)))
        assert [one.status for one in fired.outcomes] == [0, 0]
        assert "ConnectionRefusedError" in fired.outcomes[0].fault

    def test_a_server_that_closes_after_an_answer_loses_nothing(self) -> None:
        async def close(writer: asyncio.StreamWriter, number: int) -> None:
            writer.write(ok(more="Connection: close\r\n"))
            writer.close()

        assert {one.status for one in run(close, num_requests=8, connections=2).outcomes} == {200}

    def test_answers_in_chunks(self) -> None:
        async def chunked(writer: asyncio.StreamWriter, number: int) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            await asyncio.sleep(0.01)
            writer.write("4\r\n\u00e9\u00e9\r\n0\r\n\r\n".encode())

        assert {one.answer for one in run(chunked, num_requests=3).outcomes} == {"abcéé"}

    def test_in_a_process_of_its_own_until_told_that_it_is_enough(self, tmp_path: Path) -> None:
        async def main() -> Fired:
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            load = Load(server.sockets[0].getsockname()[1], "/", ("{}",), 60.0, 2)
            began = time.monotonic()
            fired = await asyncio.to_thread(fire_in_process, load, tmp_path, lambda: time.monotonic() - began > 2)
            server.close()
            return fired

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(1 << 16):
                writer.write(ok())
            writer.close()

        fired = asyncio.run(main())
        assert fired.ended - fired.began < 30
        assert {one.status for one in fired.outcomes} == {200}
        assert 0 < fired.cpu_s <= fired.ended - fired.began


def outcome(due: float, done: float, status: int = 200, **more: object) -> Outcome:
    return replace(Outcome(0, due, due, done, status), **more)  # type: ignore[arg-type]


class TestSummary:
    def test_only_the_window_counts_for_speed_and_latency_but_all_are_counted(self) -> None:
        outcomes = [outcome(100 + second, 100 + second + 0.5) for second in range(10)]  # 100.5, 101.5, … 109.5
        outcomes += [outcome(103.0, 103.01, 429, retry_after="1"), outcome(101.0, 101.9, 429, retry_after="1")]
        summary = summarise(Fired(100.0, 112.0, 3.0, tuple(outcomes)), warm_s=2.0, seconds=7.0)
        assert summary.requests_per_s == pytest.approx(5 / 5)  # answered at 102.5 to 106.5
        assert summary.p50_ms == summary.p99_ms == pytest.approx(500)
        assert summary.refusal_p99_ms == pytest.approx(10)  # the other was due in the warm-up
        assert (summary.num_requests, summary.num_answered, summary.num_refused) == (12, 10, 2)
        assert summary.generator_share == pytest.approx(0.25)

    def test_nothing_answered(self) -> None:
        summary = summarise(Fired(0.0, 1.0, 0.0, (outcome(0.0, 1.0, 0),)))
        assert (summary.requests_per_s, summary.p50_ms, summary.refusal_p50_ms, summary.num_lost) == (0, None, None, 1)

    @pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.001, 1)])
    def test_percentiles(self, share: float, value: int) -> None:
        assert percentile([float(n) for n in range(100, 0, -1)], share) == value

    @pytest.mark.parametrize(("status", "header", "is_one"), [(429, "3", True), (429, None, False), (503, "3", False)])
    def test_a_refusal_says_when_to_come_again(self, status: int, header: str | None, is_one: bool) -> None:
        assert is_refusal(outcome(0, 1, status, retry_after=header)) == is_one

    def test_memory_counts_from_when_it_has_settled(self) -> None:
        assert settled([10, 90, 100, 99, 104, 103, 102, 101, 100, 100]) == (100, 104)

    def test_a_ratio_is_the_median_over_rounds(self) -> None:
        def rounds(*nums: int) -> list[Fired]:
            return [Fired(0.0, 2.0, 0.0, tuple(outcome(0, 1) for _ in range(num))) for num in nums]

        assert _ratio(rounds(30, 40, 90), rounds(10, 10, 10)) == 4.0
        assert _ratio(rounds(30), rounds(0)) == float("inf")


class TestTruth:
    OURS = "m@1"
    TRUTH = Truth({OURS: [{"prob_a": 0.25, "prob_b": 0.75}, {"prob_a": 0.5, "prob_b": 0.5}]}, tolerance=0.01)

    def checked(self, *rows: dict[str, object], model: str = OURS, body: int = 0, size: int = 2) -> Checked:
        answer = json.dumps({"model": model, "results": [{"scores": row} for row in rows]})
        return check([Outcome(body, 0, 0, 1, 200, answer=answer)], size, OurDialect(), self.TRUTH)

    def test_right_within_the_tolerance(self) -> None:
        checked = self.checked({"prob_a": 0.255, "prob_b": 0.75, "label": "b"}, {"prob_a": 0.5, "prob_b": 0.5})
        assert checked.num_wrong == 0
        assert checked.max_difference == pytest.approx(0.005)
        assert checked.by_bundle == {self.OURS: 1}

    def test_the_second_body_asks_for_the_next_texts(self) -> None:
        assert self.checked({"prob_a": 0.5, "prob_b": 0.5}, body=1, size=1).num_wrong == 0
        assert self.checked({"prob_a": 0.25, "prob_b": 0.75}, body=1, size=1).num_wrong == 1

    def test_wrong_answers(self) -> None:
        assert self.checked({"prob_a": 0.25}, {"prob_a": 0.52}).num_wrong == 1
        assert self.checked({"prob_a": 0.25}).num_wrong == 1  # one text short
        assert self.checked({"prob_c": 0.25}, {"prob_a": 0.5}).num_wrong == 1
        assert self.checked({}, {}).num_wrong == 1
        assert self.checked({"prob_a": 0.25}, {"prob_a": 0.5}, model="other@2").num_wrong == 1
        assert check([Outcome(0, 0, 0, 1, 200, answer="<html>")], 2, OurDialect(), self.TRUTH).num_wrong == 1

    def test_refusals_aren_t_wrong(self) -> None:
        assert check([Outcome(0, 0, 0, 1, 429, answer="{}")], 2, OurDialect(), self.TRUTH).num_wrong == 0

    def test_labels_of_a_peer_become_columns_of_the_first_head(self, tiny: Path) -> None:
        bundle = load_bundle(tiny)
        dialect = LabelDialect(bundle, "/classify", "input", "data", model="benchmark")
        assert json.loads(dialect.body(["好", "b"])) == {"input": ["好", "b"], "model": "benchmark"}
        answer = {"data": [[{"label": "positive", "score": 0.75}, {"label": "negative", "score": 0.25}]]}
        assert dialect.read(answer) == (str(bundle), [{"prob_positive": 0.75, "prob_negative": 0.25}])


class TestProcesses:
    def test_all_that_stem_from_a_process_are_found_and_ended(self) -> None:
        inner = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
        with subprocess.Popen([sys.executable, "-c", inner]) as process:
            deadline = time.monotonic() + 30
            while len(found := descendants(process.pid)) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            assert [one.parent for one in found] == [os.getpid(), process.pid]
            assert own_bytes(found) > 1_000_000
            assert end(found) == 2
            assert end(found) == 0
        assert descendants(process.pid) == []

    def test_an_id_that_is_somebody_else_s_by_now_is_left_alone(self) -> None:
        (here, *_) = descendants(os.getpid())
        assert here.is_alive()
        assert not Process(here.pid, here.parent, here.began - 1).is_alive()
        assert end([Process(here.pid, here.parent, here.began - 1)]) == 0


class TestServer:
    def launch(self, port: int, code: str) -> Launch:
        return Launch("double", (sys.executable, "-c", code), port, "/", "{}")

    def test_one_that_ends_says_its_last_words(self, tmp_path: Path) -> None:
        code = "import sys; sys.exit('the port is taken')"
        with (
            pytest.raises(ServerError, match=r"double ended with code 1: the port is taken"),
            started(self.launch(free_port(), code), tmp_path),
        ):
            pass

    def test_one_that_doesn_t_heed_sigterm_is_killed_on_ctrl_c(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("jobs.benchmark.serve.server._LEAVES_IN_S", 0.2)
        port = free_port()
        code = (
            "import signal, http.server as h\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "class H(h.BaseHTTPRequestHandler):\n"
            "    def do_POST(self):\n"
            "        self.send_response(200); self.send_header('Content-Length', '0'); self.end_headers()\n"
            f"h.HTTPServer(('127.0.0.1', {port}), H).serve_forever()\n"
        )
        with pytest.raises(KeyboardInterrupt), started(self.launch(port, code), tmp_path) as one:
            (process,) = one.processes()
            raise KeyboardInterrupt
        assert not process.is_alive()
        assert one.process.returncode == -signal.SIGKILL


class TestCommandLine:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--parts", "saturation,chaos"], "parts ['chaos'] aren't known: expected all or some of saturation, "),
            (["--peers", "vllm"], "peers ['vllm'] aren't known: expected all, none or some of infinity, "),
            (["--sizes", "32,0"], "sizes ['0'] can't be used: expected texts a request, 1 to 1024"),
            (["--sizes", "x"], "sizes ['x'] can't be used"),
            (["--seconds", "0.5"], "seconds must be at least 1, got 0.5"),
            (["--overload-seconds", "0"], "overload_seconds must be at least 1, got 0"),
            (["--num-texts", "31"], "num_texts must be at least 32, one request's, got 31"),
            (["--precision", "fp64"], "precisions ['fp64'] aren't known"),
            (["--precision", "int8", "--peers", "none", "--num-texts", "40"], "int8"),
        ],
    )
    def test_wrong_arguments_stop_it_before_any_work(
        self, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("jobs.benchmark.serve.run.started", None)
        tiny = ["--layers", "1", "--hidden", "16", "--heads", "2"]
        assert command.main(["serve", *tiny, *arguments]) == 2
        assert says in capsys.readouterr().err

    def test_no_environment_for_infinity(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(launches, "BENCH_PYTHON", tmp_path / "bin" / "python")
        assert command.main(["serve", "--parts", "peers"]) == 2
        said = capsys.readouterr().err
        assert f"infinity runs in {tmp_path}, which isn't there: make it with `python -m jobs.benchmark peers`" in said

    def test_parts_come_in_the_order_in_which_they_are_measured(self) -> None:
        from jobs.benchmark.serve.options import choose_parts, choose_servers  # noqa: PLC0415

        assert choose_parts("peers, saturation") == ("saturation", "peers")
        assert choose_parts("all") == ("saturation", "latency", "overload", "kill", "peers")
        assert choose_servers("none") == ()

    def test_the_table_shows_what_was_not_measured_as_a_dash(self) -> None:
        summary = summarise(Fired(0.0, 2.0, 0.5, (outcome(0, 1), outcome(0, 2))))
        row = make_row("latency", "verbatim", 32, summary, Checked(0, 0.0, {}))
        assert row.texts_per_s == 32
        line = " ".join(table([row]).splitlines()[1].split())
        assert line == "latency verbatim 32 32.0 - 1,000 2,000 2,000 2 0 - 0 0 0 25%"
        assert targets_table([]) == ""


@pytest.mark.ray
@pytest.mark.slow
def test_the_service_for_some_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saturation and a kill with a rolling change, on a service that it starts; nothing is left of it afterwards."""
    feedback, target = tmp_path / "feedback.parquet", tmp_path / "rows.json"
    pq.write_table(pa.table({"text": [f"{n} " + "good " * (n * 7 % 30) for n in range(120)]}), feedback)
    flags = ["--layers", "1", "--hidden", "16", "--heads", "2", "--texts", str(feedback), "--num-texts", "100"]
    flags += ["--precision", "fp32", "--sizes", "8", "--seconds", "2", "--rounds", "1", "--connections", "4"]
    seen: list[Process] = []

    def end_and_remember(one: server.Server) -> None:
        seen.extend(one.processes())
        really_end(one)

    really_end = server._end
    monkeypatch.setattr(server, "_end", end_and_remember)
    code = command.main(["serve", *flags, "--parts", "saturation,kill", "--json", str(target)])
    said = capsys.readouterr().out
    assert code == 0, said
    saturation, kill, rolling = json.loads(target.read_text())
    assert [row["part"] for row in (saturation, kill, rolling)] == ["saturation", "kill", "rolling"]
    for row in (saturation, kill, rolling):
        assert row["num_answered"] == row["num_requests"] > 0
        assert row["max_prob_diff"] < 1e-5
    assert saturation["share"] > 0
    assert "engine verbatim-fp32" in said
    assert "failed, lost or wrong in a change of bundle" in said
    assert len(seen) > 10  # two services with a Ray each
    assert not [process for process in seen if process.is_alive()]
