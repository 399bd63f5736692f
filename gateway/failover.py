"""Failover inside a stream: finds another endpoint for a broken answer and has it go on there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from time import monotonic

import orjson

from gateway.attempt import WHOLE, Attempt
from gateway.attempts import Attempts
from gateway.context import RequestContext
from gateway.http.job import Signal
from gateway.race import Race
from gateway.relay.passage import Passage, Plain
from gateway.relay.resume import Resumption, Way
from gateway.relay.stream import Heartbeat
from gateway.runtime import Candidate, Route
from gateway.services import Services
from gateway.upstream.request import request_head
from policies.outcome import Elsewhere, ErrorKind, Failure

#: Seconds for asking an endpoint for the text of token ids, which takes it a millisecond.
_DETOKENIZE_TIMEOUT = 2.0
#: Seconds between looks for an endpoint that is back.
_INTERVAL = 0.1


class Failover:
    """That of one streamed request. Its attempts come from the request's own plan, so from the one budget."""

    __slots__ = ("_attempts", "_ctx", "_loop", "_numbers", "_resumption", "_route")

    def __init__(
        self,
        ctx: RequestContext,
        route: Route,
        attempts: Attempts,
        services: Services,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._ctx = ctx
        self._route = route
        self._attempts = attempts
        self._resumption: Resumption | None = attempts.resumption
        self._numbers = services.metrics.route(route.name)
        self._loop = loop

    @property
    def possible(self) -> bool:
        """Whether a break may be mended."""
        return self._resumption is not None and self._resumption.count < self._route.policy.stream.max_resumes

    def passage(self, attempt: Attempt) -> Passage:
        """How the first answer's frames go to the client."""
        if self._resumption is None:
            return Plain(attempt.shape)
        return self._resumption.passage(attempt)

    async def go_on(self, broken: Attempt, passage: Passage, failure: Failure) -> tuple[Attempt, Passage] | None:
        """The answer's continuation after a break, at its first content; None when there can't be an exact one."""
        outcome, found = "not_exact", None
        beat = Heartbeat(self._ctx.client, self._route.policy.stream.keepalive or float("inf"), self._loop)
        try:
            resumption = self._resumption
            if resumption is not None and not self.possible:
                outcome = "no_endpoint"
            elif resumption is not None and failure.elsewhere is Elsewhere.YES:
                silent_for = self._route.timeout.idle if failure.kind is ErrorKind.INFERENCE_TIMEOUT else 0.0
                self._attempts.plan.broke(broken.candidate, failure, monotonic(), silent_for)
                if resumption.broke(broken, passage):
                    outcome, found = await self._elsewhere(resumption)
            return found
        finally:
            beat.stop()
            self._attempts.abandon()
            self._numbers.resumes[outcome] += 1
            record = broken.record
            if outcome == Way.TOKENS:
                record.continued = True
            else:
                self._numbers.wasted("interrupted", monotonic() - broken.started, record.tokens)

    async def _elsewhere(self, resumption: Resumption) -> tuple[str, tuple[Attempt, Passage] | None]:
        """(what became of it, for the metrics; attempt and passage)."""
        attempts, outcome = self._attempts, "no_endpoint"
        with self._route.room.place_for_stream() as patience:
            until = min(monotonic() + patience, self._ctx.deadline)
            while True:
                choice = attempts.plan.resume(monotonic(), resumption.fits)
                if choice is None:
                    if not await self._later(resumption, until):
                        return outcome, None
                    continue
                if not await attempts.wait(choice):
                    attempts.plan.forgo()
                    continue
                order = await resumption.order(choice.target, partial(self._text_of, choice.target))
                if order is None:
                    outcome, until = "not_exact", 0.0  # likely so at others too: not worth a wait
                    continue
                outcome = "failed"
                attempt = await attempts.resumed(choice, order)
                if attempt is not None:
                    resumption.count += 1
                    self._numbers.wasted("interrupted", 0.0, order.wasted)
                    return order.way.value, (attempt, order.passage)

    async def _later(self, resumption: Resumption, until: float) -> bool:
        """Waits a moment, where an endpoint that is out now may be back before `until` (loop time)."""
        now = monotonic()
        if now >= until or not self._attempts.plan.may_resume_later(now, until, resumption.fits):
            return False
        moment = Signal()
        timer = self._loop.call_at(min(until, now + _INTERVAL), moment.set)
        try:
            await moment
        finally:
            timer.cancel()
            self._ctx.waited(now, monotonic())
        return True

    async def _text_of(self, candidate: Candidate, ids: Sequence[int]) -> str | None:
        """The text of token ids, as an endpoint says; None when it can't."""
        ctx = self._ctx
        endpoint = candidate.endpoint
        body = orjson.dumps({"model": candidate.model or ctx.model, "tokens": list(ids)})
        lines = self._attempts.lines_for(endpoint)
        head = request_head("POST", endpoint.base_path + b"/detokenize", endpoint.head_lines, lines, len(body))
        race, began = Race(self._ctx.client.alarm), monotonic()
        asking = Attempt(candidate, "/detokenize", head, body, race.settle, None, whole=True)
        race.running.append(asking)
        asking.start(min(self._route.timeout.connect, _DETOKENIZE_TIMEOUT))
        try:
            if await race.next(min(began + _DETOKENIZE_TIMEOUT, ctx.deadline)) is None:
                return None
        finally:
            asking.cancel()
            ctx.waited(began, monotonic())
        if asking.failure is not None or asking.kind is not WHOLE:
            return None
        try:
            text = orjson.loads(asking.held)["prompt"]
        except (orjson.JSONDecodeError, TypeError, KeyError):
            return None
        return text if isinstance(text, str) else None
