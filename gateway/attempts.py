"""The attempts of one request: which endpoint is asked next, beside or after the others, until one answers."""

from __future__ import annotations

import asyncio
from time import monotonic

from gateway.attempt import AnswerKind, Attempt
from gateway.context import AttemptRecord, RequestContext
from gateway.errors.taxonomy import GatewayError
from gateway.race import Race
from gateway.runtime import Candidate, Route
from gateway.services import Services
from gateway.upstream.request import request_head
from policies.outcome import ErrorKind, Failure
from policies.plan import LAST_RESORT, AttemptPlan, Choice


class Attempts:
    """Not reused. `ctx.lines` must be set: the header lines that go to every endpoint."""

    __slots__ = ("_ctx", "_plan", "_race", "_route", "_services")

    def __init__(self, ctx: RequestContext, route: Route, services: Services, loop: asyncio.AbstractEventLoop) -> None:
        self._ctx = ctx
        self._route = route
        self._services = services
        self._race = Race(loop)
        self._plan: AttemptPlan[Candidate] = route.plan(ctx.deadline, ctx.affinity(route.policy.balance))

    async def answer(self) -> Attempt:
        """Tries endpoints until one answers. Raises GatewayError when none can.

        An attempt without an answer after `first_token` is not cut off at once (a long prompt may rightly take that
        long): another is started beside it, and whichever answers first is taken.
        """
        ctx, plan, race = self._ctx, self._plan, self._race
        first_token = self._route.timeout.first_token
        try:
            choice = await self._next()
            while True:
                if choice is not None:
                    await self._wait(choice)
                    race.running.append(self._start(choice))
                    slow_at = monotonic() + first_token
                elif not race.running:
                    raise self._total_failure()
                attempt = await race.next(min(ctx.deadline, slow_at))
                now = monotonic()
                if attempt is not None:
                    self._judged(attempt)
                    if attempt.failure is None:
                        return attempt
                    plan.failed(attempt.candidate, attempt.failure)
                    choice = await self._next() if not race.running else None
                elif now >= ctx.deadline:
                    raise self._out_of_time()
                else:
                    choice = plan.beside(now, [running.candidate for running in race.running])
                    if choice is None and ctx.facts.stream:
                        self._expire(f"no first token within {first_token:g} s")
                    slow_at = float("inf") if choice is None else slow_at
        finally:
            ctx.budget_exhausted = plan.budget_exhausted
            for loser in race.running:
                self._lost(loser)

    # -- choosing and starting -----------------------------------------------------------------------------------------

    async def _next(self) -> Choice[Candidate] | None:
        """The next attempt, at once or when its turn comes: those who wait for a free slot come first."""
        room = self._route.room
        choice = None if room.crowded else self._plan.next(monotonic())
        return choice or await room.turn(self._ctx, self._plan, self._services.metrics.route(self._route.name))

    async def _wait(self, choice: Choice[Candidate]) -> None:
        """A pause before an endpoint is asked, with the slot already taken; not counted as Seawall's own time."""
        if choice.delay > 0:
            choice.target.endpoint.hold()
            try:
                await asyncio.sleep(choice.delay)
            finally:
                choice.target.endpoint.release(monotonic())
            self._ctx.backend_time += choice.delay

    def _start(self, choice: Choice[Candidate]) -> Attempt:
        ctx, route = self._ctx, self._route
        candidate = choice.target
        endpoint = candidate.endpoint
        now = monotonic()
        body = ctx.body_for(candidate.model)
        lines = ctx.lines
        if ctx.deadline_is_clients:
            lines += b"x-request-timeout: %.3f\r\n" % max(0.001, ctx.deadline - now)
        if ctx.trace is not None:
            lines += ctx.trace.traceparent_line(len(ctx.attempts) + 1)
        target = endpoint.base_path + ctx.target()
        head = request_head(ctx.request.method, target, endpoint.head_lines, lines, len(body) if body else None)
        permit = endpoint.begin(now, early=choice.why == LAST_RESORT)
        attempt = Attempt(candidate, ctx.api_path, head, body, self._race.settle, permit)
        ctx.attempts.append(
            AttemptRecord(endpoint.name, candidate.model or ctx.model, len(ctx.attempts) + 1, choice.why, now, attempt)
        )
        if len(ctx.attempts) > 1:
            self._services.metrics.route(route.name).retries += 1
        if candidate.fallback:
            self._services.metrics.attempts(route.name, endpoint.name).fallbacks += 1
        attempt.start(min(route.timeout.connect, ctx.deadline - now))
        return attempt

    # -- how they ended ------------------------------------------------------------------------------------------------

    def _judged(self, attempt: Attempt) -> None:
        """Books a settled attempt. A stream that has begun is booked when it ends."""
        ctx = self._ctx
        record = ctx.record_of(attempt)
        record.ms = (attempt.settled_at - attempt.started) * 1000
        record.failure = attempt.failure
        ctx.backend_time += attempt.settled_at - max(attempt.started, ctx.backend_until)
        ctx.backend_until = attempt.settled_at
        if attempt.failure is None:
            if attempt.kind is AnswerKind.WHOLE:
                ctx.usage = attempt.endpoint.dialect.usage(attempt.held)
            tokens = ctx.usage.completion_tokens if ctx.usage is not None else None
            attempt.endpoint.answered(attempt.settled_at - attempt.started, attempt.settled_at, tokens)
        if attempt.failure is not None or attempt.kind is AnswerKind.WHOLE:
            book(self._services, self._route, attempt, attempt.failure)

    def _lost(self, loser: Attempt) -> None:
        """Gives up an attempt that another one beat, or whose client or time has gone."""
        if loser.failure is None:
            waited = monotonic() - loser.started
            slow = waited >= self._route.timeout.first_token
            kind = ErrorKind.INFERENCE_TIMEOUT if slow else ErrorKind.CLIENT_DISCONNECTED
            loser.expire(Failure(kind, f"no answer within {waited:.1f} s"))
        self._judged(loser)

    def _expire(self, evidence: str) -> None:
        for attempt in list(self._race.running):
            attempt.expire(Failure(ErrorKind.INFERENCE_TIMEOUT, evidence))

    def _out_of_time(self) -> GatewayError:
        kind = ErrorKind.DEADLINE_EXCEEDED if self._ctx.deadline_is_clients else ErrorKind.INFERENCE_TIMEOUT
        for attempt in list(self._race.running):
            self._race.running.remove(attempt)
            self._lost(attempt)
        return GatewayError(kind, attempts=self._ctx.failed_attempts())

    def _total_failure(self) -> GatewayError:
        failed = self._ctx.failed_attempts()
        if failed:
            return GatewayError.from_failures(failed)
        return GatewayError(ErrorKind.MODEL_OVERLOADED, _NOBODY, retry_after=self._route.retry_after(monotonic()))


def book(services: Services, route: Route, attempt: Attempt, failure: Failure | None) -> None:
    """Tells the endpoint's breaker and the metrics how an attempt ended."""
    endpoint = attempt.candidate.endpoint
    endpoint.end(attempt.permit, failure, attempt.settled_at - attempt.started, monotonic())
    services.metrics.attempts(route.name, endpoint.name).judged(failure.kind if failure is not None else None)


#: Said when no endpoint could even be asked.
_NOBODY = "No backend for this model can be asked right now. Wait as long as Retry-After says, then try again."
