"""What the service does, whatever protocol it is asked in: check the key, admit, choose the version, ask it, count.

The protocols (`serving.web.rest` and its neighbours) turn their own requests into these calls and these answers into
their own form; the `Backend` brings a call to a replica. Neither HTTP nor Ray is known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import pyarrow.compute as pc

from serving.admission import Admission, Ticket, TokenEstimate, TokenRate, num_bytes
from serving.auth import Key, Keyring
from serving.errors import RequestError
from serving.explain import MAX_SPANS
from serving.metrics import Metrics
from serving.settings import BundleSettings, ServingSettings
from serving.versions import choose
from serving.wire import BundleFacts, ExplainCall, ExplainReply, ScoreCall, ScoreReply

_ANSWER_TAKES_S = 1.0  # beyond the deadline, for the way to the replica and back
_PING_S = 2.0
_UNKNOWN_MAX_LENGTH = 512  # tokens, before a bundle has told its own

Reply = TypeVar("Reply")


class Backend(Protocol):
    """The way to the replicas of a deployment."""

    async def score(self, deployment: str, call: ScoreCall) -> ScoreReply | RequestError:
        """Have texts scored."""

    async def explain(self, deployment: str, call: ExplainCall) -> ExplainReply | RequestError:
        """Have a score explained."""

    async def facts(self, deployment: str) -> BundleFacts | RequestError:
        """Ask a replica about its bundle."""


@dataclass(frozen=True)
class Caller:
    """Who asks, under which id. No key: the service asks for none."""

    request_id: str
    key: Key | None


@dataclass(frozen=True)
class Wanted:
    """Which model and heads a request names."""

    model: str | None = None
    version: str | None = None
    heads: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Scored:
    """Answers to a list of texts: `reply` covers `rows` of them, `faults` the others, by their place in the list."""

    served_by: BundleSettings
    reply: ScoreReply
    rows: tuple[int, ...]
    faults: Mapping[int, ItemFault]
    num_tokens: int


@dataclass(frozen=True)
class ItemFault:
    """Why one text of a list has no score."""

    code: str  # empty_text or text_too_long
    message: str


_EMPTY = ItemFault("empty_text", "nothing remains of the text when markup and white space are taken out")


class Service:
    """One ingress replica's view of the whole service."""

    def __init__(self, settings: ServingSettings, backend: Backend) -> None:
        share = settings.ingress.num_replicas
        self.settings, self.bundles = settings, settings.by_name()
        self.admission = Admission(max(1, settings.admission.tokens_in_flight // share))
        self.metrics = Metrics(self.admission)
        self._keyring = Keyring(settings.auth.keys_file, share=share) if settings.auth.keys_file else None
        self._backend, self._estimate = backend, TokenEstimate()
        self._facts: dict[str, BundleFacts] = {}

    def identify(self, authorization: str | None, request_id: str) -> Caller:
        """Check who asks by the value of the Authorization header.

        Raises
        ------
        RequestError : unauthenticated.
        """
        return Caller(request_id, self._keyring.check(authorization) if self._keyring else None)

    def choose(self, caller: Caller, wanted: Wanted) -> BundleSettings:
        """Find the version that answers; refuse one that the key isn't for."""
        chosen = choose(self.bundles, wanted.model, wanted.version, caller.request_id)
        if caller.key is not None:
            caller.key.may_use(chosen.name)
        return chosen

    async def score(
        self, caller: Caller, wanted: Wanted, texts: Sequence[str], *, field: str = "texts", may_wait: bool = False
    ) -> Scored:
        """Score texts.

        Parameters
        ----------
        field : what the protocol calls its list of texts, for errors.
        may_wait : wait for room instead of refusing; for streams.

        Raises
        ------
        RequestError : the whole request can't be answered.
        """
        chosen = self.choose(caller, wanted)
        self._check_count(len(texts), field)
        faults, good = self._split(texts)
        kept = tuple(texts[row] for row in good)
        estimate = self._estimate(kept, self._max_length(chosen))
        with await self._admit(estimate, may_wait) as ticket:
            rate = self._spend(caller, estimate)
            deadline_s = self.settings.admission.deadline_s
            reply = await self._ask(self._backend.score(chosen.deployment, ScoreCall(kept, wanted.heads, deadline_s)))
            num_tokens = pc.sum(reply.table["num_tokens"]).as_py() or 0
            ticket.correct(num_tokens)
        if rate is not None:
            rate.correct(num_tokens - estimate)
        if not pc.any(reply.table["truncated"]).as_py():
            self._estimate.learn(sum(num_bytes(kept[row]) for row in reply.rows), len(reply.rows), num_tokens)
        self.metrics.reply(chosen, reply, num_tokens)
        answered = set(reply.rows)
        faults |= {good[row]: _EMPTY for row in range(len(kept)) if row not in answered}
        return Scored(chosen, reply, tuple(good[row] for row in reply.rows), faults, num_tokens)

    async def explain(
        self, caller: Caller, wanted: Wanted, text: str, *, head: str | None, label: str | None, num_spans: int
    ) -> ExplainReply:
        """Say which spans of a text move a score.

        Raises
        ------
        RequestError : it can't be answered.
        """
        chosen = self.choose(caller, wanted)
        if len(text) > self.settings.limits.max_text_chars:
            raise RequestError("too_large", self._too_long().message, field="text")
        estimate = self._estimate([text], self._max_length(chosen)) * (min(len(text), MAX_SPANS) + 1)
        with await self._admit(estimate, may_wait=False) as ticket:
            rate = self._spend(caller, estimate)
            call = ExplainCall(text, head, label, num_spans, self.settings.admission.deadline_s)
            reply = await self._ask(self._backend.explain(chosen.deployment, call))
            ticket.correct(reply.num_tokens)
        if rate is not None:
            rate.correct(reply.num_tokens - estimate)
        return reply

    async def facts(self) -> dict[str, BundleFacts | None]:
        """What is known of each deployment's bundle; None for one that doesn't answer and never has.

        A version that may have no replica isn't woken for this once it is known.
        """
        await asyncio.gather(*(self._refresh(one) for one in self.settings.bundles if not self._may_sleep(one)))
        return {one.deployment: self._facts.get(one.deployment) for one in self.settings.bundles}

    async def facts_of(self, deployment: str) -> BundleFacts:
        """What is known of one deployment's bundle; asks it if need be, and wakes it if it sleeps."""
        if deployment not in self._facts:
            self._facts[deployment] = await self._ask(self._backend.facts(deployment))
        return self._facts[deployment]

    def visible(self, caller: Caller) -> list[BundleSettings]:
        """All versions of the models that the caller may use."""
        allowed = None if caller.key is None else caller.key.models
        return [one for one in self.settings.bundles if allowed is None or one.name in allowed]

    async def is_model_ready(self, bundle: BundleSettings) -> bool:
        """Whether a version has a replica that answers now, or gets one when it is asked."""
        return self._may_sleep(bundle) or await self._refresh(bundle)

    async def is_ready(self) -> bool:
        """Whether every version that is never without a replica has one that answers now."""
        awake = [one for one in self.settings.bundles if not self._may_sleep(one)]
        return all(await asyncio.gather(*(self._refresh(one) for one in awake)))

    async def _refresh(self, bundle: BundleSettings) -> bool:
        try:
            async with asyncio.timeout(_PING_S):
                facts = await self._backend.facts(bundle.deployment)
        except TimeoutError:
            return False
        if isinstance(facts, RequestError):
            return False
        self._facts[bundle.deployment] = facts
        return True

    async def _admit(self, tokens: int, may_wait: bool) -> Ticket:
        return await self.admission.wait(tokens) if may_wait else self.admission.enter(tokens)

    def charge(self, caller: Caller, bundle: BundleSettings, texts: Sequence[str]) -> None:
        """Take from the key's rate what texts are estimated to cost; for work that isn't done here.

        Raises
        ------
        RequestError : rate_limited.
        """
        self._spend(caller, self._estimate(texts, self._max_length(bundle)))

    def _spend(self, caller: Caller, tokens: int) -> TokenRate | None:
        if caller.key is None or self._keyring is None or (rate := self._keyring.rate(caller.key)) is None:
            return None
        rate.spend(tokens)
        return rate

    async def _ask(self, answer: Awaitable[Reply | RequestError]) -> Reply:
        try:
            async with asyncio.timeout(self.settings.admission.deadline_s + _ANSWER_TAKES_S):
                reply = await answer
        except TimeoutError:
            raise RequestError("deadline_exceeded", "the answer wasn't ready in time") from None
        if isinstance(reply, RequestError):
            raise reply
        return reply

    def _check_count(self, count: int, field: str) -> None:
        most = self.settings.limits.max_texts
        if count > most:
            raise RequestError("too_large", f"{field} may hold at most {most} texts, got {count}", field=field)
        if not count:
            raise RequestError("invalid_request", f"{field} must hold at least one text", field=field)

    def _split(self, texts: Sequence[str]) -> tuple[dict[int, ItemFault], list[int]]:
        most = self.settings.limits.max_text_chars
        faults = {row: self._too_long() for row, text in enumerate(texts) if len(text) > most}
        return faults, [row for row in range(len(texts)) if row not in faults]

    def _too_long(self) -> ItemFault:
        most = self.settings.limits.max_text_chars
        return ItemFault("text_too_long", f"a text may have at most {most} characters")

    def _max_length(self, bundle: BundleSettings) -> int:
        facts = self._facts.get(bundle.deployment)
        return facts.max_length if facts else _UNKNOWN_MAX_LENGTH

    def _may_sleep(self, bundle: BundleSettings) -> bool:
        return bundle.autoscaling is not None and bundle.autoscaling.min == 0
