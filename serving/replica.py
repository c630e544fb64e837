"""The deployment that holds one version of one bundle: clean and tokenise in threads, batch, score, tell how it goes.

Ready means warm: the constructor scores texts up to the token budget first, so the first client pays for nothing.
Serve stops a replica by taking it from the routers and waiting for its requests, so a change of bundle loses none.
Cleaning, language and tokens are made exactly as the scoring job makes them.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from models.bundle import CARD_FILE, Bundle
from models.clean import clean, clean_with_offsets
from models.fetch import fetch
from models.heads import need_offsets
from models.language import tag
from models.precision import choose_precision
from models.scorer import Scorer
from models.tokeniser import Tokens
from serving import explain
from serving.batcher import Answered, Batcher, DeadlineError, QueueFullError
from serving.errors import RequestError
from serving.gauges import ReplicaGauges
from serving.settings import BundleSettings
from serving.wire import BundleFacts, ExplainCall, ExplainReply, HeadFacts, Load, ScoreCall, ScoreReply, Stages

_MAX_FAILURES_IN_A_ROW = 3  # of batches; after that the device is taken for broken
_STUCK_S = 120.0  # a batch that takes longer never ends
_TURN_S = 1e-4  # Python's own 5 ms let the event loop hold up the lanes between two operations of a batch (NOTES.md)


class Replica:
    """One copy of one bundle on one device."""

    def __init__(self, settings: BundleSettings) -> None:
        sys.setswitchinterval(_TURN_S)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # our threads are the parallelism
        self._id = secrets.token_hex(4)
        device = "cuda" if settings.num_gpus else "cpu"
        precision = choose_precision(settings.precision, on_gpu=bool(settings.num_gpus))
        self._bundle = fetch(settings.reference)
        self._tokenise = ThreadPoolExecutor(settings.tokeniser_threads, "tokenise")
        scorer = Scorer(
            self._bundle,
            token_budget=settings.token_budget,
            precision=precision,
            device=device,
            threads=settings.threads,
        )
        warm_up(scorer, self._bundle)
        num_lanes = settings.threads if device == "cpu" else scorer.depth
        self._batcher = Batcher(
            scorer.score,
            ThreadPoolExecutor(num_lanes, "lane"),
            token_budget=settings.token_budget,
            queue_tokens=settings.queue_tokens,
            num_lanes=num_lanes,
        )
        self._facts = facts(self._bundle, precision, device)
        self._gauges = ReplicaGauges(settings, str(self._bundle))
        self._demand = _Demand()

    async def facts(self) -> BundleFacts:
        """What clients may know of the bundle."""
        return self._facts

    async def score(self, call: ScoreCall) -> ScoreReply | RequestError:
        """Score texts; those of which nothing remains when cleaned are left out of the reply's rows."""
        began = time.perf_counter()
        try:
            columns = self._columns(call.heads)
            prepared = await self._in_thread(prepare, call.texts, self._bundle)
            tokenised = time.perf_counter()
            answered = await self._submit(prepared.tokens, call.deadline_s - (tokenised - began))
        except RequestError as refused:
            return refused
        stages = Stages(tokenised - began, answered.wait_s, answered.compute_s)
        self._gauges.observe(self._batcher)
        table = prepared.facts
        for name in columns:
            table = table.append_column(answered.table.schema.field(name), answered.table[name])
        return ScoreReply(str(self._bundle), prepared.rows, table, stages, self._load())

    async def explain(self, call: ExplainCall) -> ExplainReply | RequestError:
        """Score a text with each of its words left out in turn."""
        try:
            return await self._explain(call)
        except RequestError as refused:
            return refused

    def check_health(self) -> None:
        """Raise if the device fails every batch or one never ends; Serve then replaces the replica."""
        if (failures := self._batcher.stats.num_failed_in_a_row) >= _MAX_FAILURES_IN_A_ROW:
            raise RuntimeError(f"the last {failures} batches failed")
        if self._batcher.busy_since is not None and time.perf_counter() - self._batcher.busy_since > _STUCK_S:
            raise RuntimeError(f"a batch has run for more than {_STUCK_S:g} s")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `serving.autoscale` decides by."""
        return {
            "backlog_tokens": float(self._batcher.queue_tokens),
            "arriving_tokens_per_s": self._demand.rate(self._batcher.stats.arrived_tokens),
            "tokens_per_s": self._batcher.tokens_per_s,
        }

    async def _explain(self, call: ExplainCall) -> ExplainReply:
        began = time.perf_counter()
        cleaned = await self._in_thread(clean_with_offsets, call.text)
        cut = explain.spans(cleaned.text)
        if not cleaned.text or not cut:
            raise RequestError("invalid_request", "text must hold at least one word", field="text")
        texts = [cleaned.text, *(explain.without(cleaned.text, span) for span in cut)]
        tokens = await self._in_thread(encode, self._bundle, texts)
        answered = await self._submit(tokens, call.deadline_s - (time.perf_counter() - began))
        row = answered.table.slice(0, 1).to_pylist()[0]
        head, column = explain.target(self._bundle.spec.heads, call.head, call.label, row)
        full, *shortened = answered.table[column].to_pylist()
        effects = [full - score for score in shortened]
        return ExplainReply(
            bundle=str(self._bundle),
            method=explain.METHOD,
            head=head,
            column=column,
            score=full,
            num_tokens=tokens.num_tokens,
            truncated=bool(tokens.truncated[0]),
            attributions=tuple(explain.attributions(call.text, cleaned, cut, effects)[: call.num_spans]),
        )

    async def _submit(self, tokens: Tokens, deadline_s: float) -> Answered:
        try:
            return await self._batcher.submit(tokens, deadline_s)
        except QueueFullError as error:
            raise RequestError("overloaded", "the model's queue is full", retry_after_s=error.retry_after_s) from None
        except DeadlineError:
            raise RequestError("deadline_exceeded", "the answer wasn't ready in time") from None

    def _columns(self, heads: tuple[str, ...] | None) -> list[str]:
        known = {head.name: head for head in self._bundle.spec.heads}
        for position, name in enumerate(heads or ()):
            if name not in known:
                raise RequestError("invalid_request", f"heads must be among {list(known)}", field=f"heads.{position}")
        wanted = known if heads is None else {name: known[name] for name in heads}
        return [column for head in wanted.values() for column in head.schema.names]

    async def _in_thread(self, function: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._tokenise, function, *args)

    def _load(self) -> Load:
        batcher, stats = self._batcher, self._batcher.stats
        return Load(
            self._id,
            batcher.queue_tokens,
            stats.num_batches,
            stats.num_tokens,
            batcher.token_budget,
            batcher.tokens_per_s,
        )


class Prepared:
    """Texts made ready: which of them something remained of, their facts, and their tokens."""

    def __init__(self, rows: tuple[int, ...], facts: pa.Table, tokens: Tokens) -> None:
        self.rows, self.facts, self.tokens = rows, facts, tokens


def prepare(texts: tuple[str, ...], bundle: Bundle) -> Prepared:
    """Clean, tag and tokenise, as the scoring job does."""
    cleaned = [clean(text) for text in texts]
    rows = tuple(row for row, text in enumerate(cleaned) if text)
    kept = [cleaned[row] for row in rows]
    tokens = encode(bundle, kept)
    facts = {
        "lang": pa.array([tag(text) for text in kept], pa.string()),
        "num_tokens": pa.array(tokens.lengths, pa.int32()),
        "truncated": pa.array(tokens.truncated, pa.bool_()),
    }
    if need_offsets(bundle.spec.heads):
        facts["clean_text"] = pa.array(kept, pa.string())  # spans count in it, and the client can't make it
    return Prepared(rows, pa.table(facts), tokens)


def encode(bundle: Bundle, texts: list[str]) -> Tokens:
    """Tokenise clean texts, with offsets if a head of the bundle needs them."""
    return bundle.tokeniser.encode(texts, with_offsets=need_offsets(bundle.spec.heads))


def facts(bundle: Bundle, precision: str, device: str) -> BundleFacts:
    """Read a bundle's description off its spec and card."""
    heads = tuple(
        HeadFacts(head.name, head.kind, tuple(head.labels), tuple((f.name, str(f.type)) for f in head.schema))
        for head in bundle.spec.heads
    )
    card = bundle.folder / CARD_FILE
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    return BundleFacts(str(bundle), bundle.spec.languages, bundle.spec.max_length, precision, device, heads, text)


def warm_up(scorer: Scorer, bundle: Bundle) -> None:
    """Score one text, then a full batch of the longest and one of short ones: kernels, memory and threads are there."""
    longest = bundle.spec.max_length
    scorer.score(encode(bundle, ["a"]))
    scorer.score(encode(bundle, ["a " * longest] * max(1, scorer.token_budget // longest)))
    scorer.score(encode(bundle, ["a"] * 32))


class _Demand:
    """Tokens that arrived a second, between one look and the next."""

    def __init__(self) -> None:
        self._at, self._arrived = time.monotonic(), 0

    def rate(self, arrived: int) -> float:
        now = time.monotonic()
        since, came = now - self._at, arrived - self._arrived
        self._at, self._arrived = now, arrived
        return came / since if since > 0 else 0.0
