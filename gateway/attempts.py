"""The attempts of one request: which endpoint is asked next, beside or after the others, until one answers."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from time import monotonic
from typing import Any

from gateway.attempt import STREAM, WHOLE, Attempt
from gateway.context import NOTHING, AttemptRecord, RequestContext
from gateway.endpoint import Endpoint
from gateway.errors.taxonomy import GatewayError
from gateway.faults import FaultInjection
from gateway.loading import down
from gateway.race import Race
from gateway.reduction import reduction, told
from gateway.relay.resume import Order, Resumption
from gateway.runtime import Candidate, Route
from gateway.services import Services
from gateway.upstream.request import request_head
from policies.outcome import Blame, Elsewhere, ErrorKind, Failure
from policies.plan import AttemptPlan
from policies.target import HEDGE, LAST_RESORT, SHRUNK, Choice


class Attempts:
    """Not reused. `ctx.lines` and `ctx.own_lines` must be set: the header lines that go to every endpoint."""

    __slots__ = (
        "_ctx",
        "_hedge_at",
        "_hedges",
        "_late",
        "_numbers",
        "_race",
        "_route",
        "_services",
        "_shrinks",
        "plan",
        "resumption",
    )

    def __init__(self, ctx: RequestContext, route: Route, services: Services) -> None:
        numbers = ctx.numbers
        assert numbers is not None
        self._ctx = ctx
        self._route = route
        self._services = services
        self._numbers = numbers
        self._race = Race(ctx.client.alarm)
        self._late: list[Attempt] = []  # those without an answer after `first_token`
        self._hedge_at = inf
        self._hedges = 0
        self._shrinks: list[tuple[dict[str, Any], Failure]] = []  # what was asked for less of, and what it was for
        self.plan: AttemptPlan[Candidate] = route.plan(ctx.deadline, ctx.affinity(route.balance))
        self.resumption: Resumption | None = None
        if ctx.facts.stream and route.resumes:
            self.resumption = Resumption.of(ctx.api_path, ctx.target(), ctx.facts)

    async def answer(self) -> Attempt:
        """Tries endpoints until one answers. Raises GatewayError when none can."""
        ctx, race = self._ctx, self._race
        try:
            choice = self._at_once() or await self._in_turn()
            while True:
                if choice is not None and (choice.delay <= 0 or await self.wait(choice)):
                    race.running.append(self._start(choice))
                elif not race.running:
                    if choice is None:
                        raise self._total_failure()
                    self.plan.forgo()
                    # The endpoint has gone while the request waited for it.
                    choice = self._at_once() or await self._in_turn()
                    continue
                attempt = await race.next(self._patience())
                now = monotonic()
                choice = None
                if attempt is not None:
                    if self._settled(attempt, now):
                        self._won(attempt)
                        return attempt
                    if not race.running:
                        choice = self._shrunk(attempt, now) or self._at_once() or await self._in_turn()
                elif now >= ctx.deadline:
                    raise self._out_of_time()
                else:
                    choice = self._beside(now)
        finally:
            self.abandon()

    # -- choosing and starting -----------------------------------------------------------------------------------------

    def _at_once(self) -> Choice[Candidate] | None:
        """The next attempt, if it may be made now: those who wait for a free slot come first."""
        return None if self._route.room.crowded else self.plan.next(monotonic())

    async def _in_turn(self) -> Choice[Candidate] | None:
        """The next attempt when its turn comes."""
        return await self._route.room.turn(self._ctx, self.plan, self._numbers)

    def _patience(self) -> float:
        """Until when to wait for what runs: then something is to be started beside it, or time is up."""
        until = self._ctx.deadline
        if self._hedge_at < until:
            until = self._hedge_at
        for attempt in self._race.running:
            slow_at = attempt.started + self._route.timeout.first_token
            if slow_at < until and attempt not in self._late:
                until = slow_at
        return until

    def _beside(self, now: float) -> Choice[Candidate] | None:
        """What to start beside attempts that are slow to begin.

        One that is slower than can be expected is hedged. One without an answer after `first_token` counts as silent,
        but is not cut off at once (a long prompt may rightly take that long) unless it is a stream and nobody else can
        be asked. Whichever answers first is taken.
        """
        first_token = self._route.timeout.first_token
        late = [a for a in self._race.running if a not in self._late and now >= a.started + first_token]
        if late:
            self._late += late
            choice = self.plan.beside(now, [attempt.candidate for attempt in late])
            if choice is None and self._ctx.facts.stream:
                self._expire(f"no first token within {first_token:g} s")
            return choice
        if now < self._hedge_at:
            return None
        self._hedge_at = inf
        hedge = self._route.hedge
        assert hedge is not None
        running = [attempt.candidate for attempt in self._race.running]
        return self.plan.hedge(now, running, lambda now: hedge.try_hedge(now, self._route.budget))

    def _shrunk(self, attempt: Attempt, now: float) -> Choice[Candidate] | None:
        """One more try, at the endpoint that ran out of memory, with a smaller request."""
        failure, route = attempt.failure, self._route
        if failure is None or failure.kind is not ErrorKind.OUT_OF_MEMORY:
            return None
        if route.degradation is not None:
            route.degradation.emergency()
        if len(self._shrinks) >= route.policy.oom.attempts:
            return None
        factor = route.policy.oom.shrink ** (len(self._shrinks) + 1)
        fewer = reduction(self._ctx.sent, factor, resolution=True)
        choice = self.plan.again(attempt.candidate, now) if fewer else None
        if choice is not None:
            self._shrinks.append((fewer, failure))
        return choice

    def _forgiven(self, attempt: Attempt) -> None:
        """A server that refuses the request as we made it smaller says nothing against the client's own."""
        failure = attempt.failure
        if failure is None or not self._shrinks or failure.elsewhere not in _ABOUT_THE_REQUEST:
            return
        if attempt.record.warning is not None:
            attempt.failure = replace(self._shrinks[-1][1], evidence=failure.evidence, blame=Blame.NONE)

    async def wait(self, choice: Choice[Candidate]) -> bool:
        """A pause before an endpoint is asked, with the slot already taken; not counted as Seawall's own time.

        False when it is not to be asked any more: it has gone meanwhile, or an attempt that runs has answered.
        """
        if choice.delay <= 0:
            return True
        endpoint, race, began = choice.target.endpoint, self._race, monotonic()
        endpoint.hold()
        try:
            while await race.settles(began + choice.delay) and not race.answered:
                settled = await race.next(began)
                assert settled is not None
                self._settled(settled, monotonic())
        finally:
            now = monotonic()
            endpoint.release(now)
            self._ctx.waited(began, now)
        return not race.answered and (endpoint.usable(now) or choice.why == LAST_RESORT)

    async def resumed(self, choice: Choice[Candidate], order: Order) -> Attempt | None:
        """Asks for the continuation of a broken answer; None when it fails before its first content."""
        ctx, race = self._ctx, self._race
        first_token = self._route.timeout.first_token
        asked = self._start(choice, order)
        race.running.append(asked)
        slow_at = monotonic() + first_token
        if await race.next(min(ctx.deadline, slow_at)) is None:
            blame = Blame.ENDPOINT if slow_at <= ctx.deadline else Blame.NONE  # it was not given the time
            waited = f"no first token within {monotonic() - asked.started:.1f} s"
            asked.expire(Failure(ErrorKind.INFERENCE_TIMEOUT, waited, blame=blame))
            await race.next(ctx.deadline)  # it has settled by that
        elif asked.failure is None and asked.kind is not STREAM:
            asked.cancel()
            asked.failure = Failure(ErrorKind.GENERATION_FAILED, "no stream where one was asked for", status=200)
        self._judged(asked)
        if asked.failure is None:
            return asked
        if asked.failure.elsewhere is not Elsewhere.YES:
            # It was Seawall that worded this request: what is wrong with it is not the client's doing.
            asked.failure = Failure(ErrorKind.GENERATION_FAILED, asked.failure.evidence, blame=Blame.NONE)
            asked.record.failure = asked.failure
        self.plan.failed(choice.target, asked.failure, monotonic())
        return None

    def abandon(self) -> None:
        """Gives up what still runs."""
        self._ctx.budget_exhausted = self.plan.budget_exhausted
        if self._race.running:
            for left in self._race.running:
                self._abandon(left)
            self._race.clear()

    def lines_for(self, endpoint: Endpoint) -> bytes:
        """The header lines of the request that go to an endpoint."""
        ctx = self._ctx
        return (endpoint.passed_on(ctx.request.headers) if endpoint.particular else ctx.lines) + ctx.own_lines

    def _start(self, choice: Choice[Candidate], order: Order | None = None) -> Attempt:
        ctx, route = self._ctx, self._route
        candidate = choice.target
        endpoint = candidate.endpoint
        now = monotonic()
        fewer = self._shrinks[-1][0] if choice.why == SHRUNK else NOTHING
        number = len(ctx.attempts) + 1
        path, target = ctx.api_path, ctx.target()
        if order is not None:
            path, body, target = order.path, order.body, order.target
        else:
            body = ctx.body_for(candidate.model, fewer)
            if self.resumption is not None:
                body = self.resumption.body(body, endpoint.dialect)
        lines = self.lines_for(endpoint)
        if ctx.deadline_is_told:
            left = ctx.deadline - now - 0.0005  # rounded down: never more than is left
            lines += b"x-request-timeout: %.3f\r\n" % max(0.001, left)
        if ctx.trace is not None:
            lines += ctx.trace.traceparent_line(number)
        target = endpoint.base_path + target
        head = request_head(ctx.request.method, target, endpoint.head_lines, lines, len(body) if body else None)
        permit = endpoint.begin(now, early=choice.why == LAST_RESORT)
        attempt = Attempt(candidate, path, head, body, self._race.settle, permit, whole=ctx.is_native)
        record = AttemptRecord(endpoint.name, candidate.model or ctx.model, number, choice.why, now, attempt)
        ctx.attempts.append(record)
        if fewer:
            record.warning = f"Made smaller after out of memory: {told(ctx.sent, fewer)}."
            self._numbers.reduced["out_of_memory"] += 1
        if number > 1:
            self._numbers.retries += 1
        if choice.why == HEDGE:
            self._hedges += 1
            self._numbers.hedges += 1
        if route.hedge is not None:
            facts = ctx.facts
            image = facts.endpoint.images
            delay = route.hedge.delay(now, self._hedges, len(body), stream=facts.stream, image=image)
            self._hedge_at = now + delay if delay is not None else inf
        left = ctx.deadline - now
        timeout = route.timeout.connect if route.timeout.connect < left else left
        if route.fault is None:
            attempt.start(timeout)
        else:
            self._with_faults(route.fault, attempt, timeout)
        return attempt

    def _with_faults(self, faults: FaultInjection, attempt: Attempt, timeout: float) -> None:
        """Starts an attempt as a game day has it: refused at once, late, or as ever."""
        aborted, delay = faults.draw()
        for name, struck in (("abort", aborted), ("delay", delay > 0)):
            if struck:
                self._numbers.faults[name] += 1
                log = self._services.log
                log.info("fault_injected", correlation_id=self._ctx.correlation_id, route=self._route.name, fault=name)
        if aborted:
            attempt.refuse(faults.failure(attempt))
        else:
            attempt.start(timeout, delay)

    # -- how they ended ------------------------------------------------------------------------------------------------

    def _settled(self, attempt: Attempt, now: float) -> bool:
        """Takes note of an attempt that has settled; whether it answered."""
        if attempt.failure is None:
            self._judged(attempt)
            return True
        self._forgiven(attempt)
        self._judged(attempt)
        self.plan.failed(attempt.candidate, attempt.failure, now)
        return False

    def _won(self, attempt: Attempt) -> None:
        """The client's answer is that of this attempt."""
        if self._race.running:
            self._beaten()
        self._ctx.warning = attempt.record.warning
        if attempt.candidate.fallback:
            self._services.metrics.attempts(self._route.name, attempt.endpoint.name).fallbacks += 1

    def _judged(self, attempt: Attempt) -> None:
        """Books a settled attempt. A stream that has begun is booked when it ends."""
        ctx, failure = self._ctx, attempt.failure
        record = attempt.record
        record.failure = failure
        seconds = self._timed(record, attempt)
        tokens = 0
        whole = attempt.kind is WHOLE
        if failure is None:
            if whole and (usage := attempt.endpoint.dialect.usage(attempt.held)) is not None:
                ctx.usage = usage
                tokens = usage.completion_tokens
            attempt.endpoint.answered(seconds, attempt.settled_at, tokens if ctx.usage is not None else None)
            if self._route.hedge is not None:
                self._route.hedge.observe(seconds, attempt.settled_at, stream=ctx.facts.stream)
        if failure is not None or whole:
            book(self._services, ctx, attempt, failure, tokens)

    def _beaten(self) -> None:
        """Aborts at once what still runs: another attempt has answered. No fault of theirs, unless they were silent."""
        now = monotonic()
        for attempt in self._race.running:
            if attempt in self._late and attempt.failure is None:
                evidence = f"no answer within {now - attempt.started:.1f} s"
                attempt.expire(Failure(ErrorKind.INFERENCE_TIMEOUT, evidence))
            if attempt.failure is not None:
                self._judged(attempt)
                continue
            attempt.cancel()
            attempt.settled_at = now
            record = attempt.record
            record.beaten = True
            seconds = self._timed(record, attempt)
            attempt.endpoint.end(attempt.permit, Failure(ErrorKind.CLIENT_DISCONNECTED), seconds, now)
            self._services.metrics.attempts(self._route.name, attempt.endpoint.name).beaten += 1
            self._numbers.wasted("beaten", seconds, 0)
            if self._route.hedge is not None:
                self._route.hedge.observe(seconds, now, stream=self._ctx.facts.stream)
        self._race.clear()

    def _abandon(self, attempt: Attempt) -> None:
        """Gives up an attempt whose client or time has gone."""
        if attempt.failure is None:
            waited = monotonic() - attempt.started
            slow = waited >= self._route.timeout.first_token
            kind = ErrorKind.INFERENCE_TIMEOUT if slow else ErrorKind.CLIENT_DISCONNECTED
            attempt.expire(Failure(kind, f"no answer within {waited:.1f} s"))
        self._judged(attempt)

    def _timed(self, record: AttemptRecord, attempt: Attempt) -> float:
        """Notes how long a settled attempt took, in seconds."""
        seconds = attempt.settled_at - attempt.started
        record.ms = seconds * 1000
        self._ctx.waited(attempt.started, attempt.settled_at)
        return seconds

    def _expire(self, evidence: str) -> None:
        for attempt in list(self._race.running):
            if attempt in self._late:
                attempt.expire(Failure(ErrorKind.INFERENCE_TIMEOUT, evidence))

    def _out_of_time(self) -> GatewayError:
        self.abandon()
        return GatewayError(self._deadline_kind, attempts=self._ctx.failed_attempts())

    @property
    def _deadline_kind(self) -> ErrorKind:
        return ErrorKind.DEADLINE_EXCEEDED if self._ctx.deadline_is_clients else ErrorKind.INFERENCE_TIMEOUT

    def _total_failure(self) -> GatewayError:
        if self._ctx.failed_attempts():
            return self._ctx.total_failure(monotonic())
        if self.plan.too_late:
            return GatewayError(self._deadline_kind, _TOO_LATE)
        told = down(candidate.endpoint for tier in self._route.tiers for candidate in tier)
        overloaded = GatewayError(ErrorKind.MODEL_OVERLOADED, _NOBODY, retry_after=self._route.retry_after(monotonic()))
        return told or overloaded


def book(services: Services, ctx: RequestContext, attempt: Attempt, failure: Failure | None, tokens: int) -> None:
    """Tells the endpoint's breaker and the metrics how an attempt ended; `tokens` are those seen of its answer.

    Those of a stream that broke are not wasted yet: see `gateway.failover`.
    """
    assert ctx.route is not None
    endpoint, route, now = attempt.candidate.endpoint, ctx.route.name, monotonic()
    streamed = attempt.kind is STREAM
    endpoint.end(attempt.permit, failure, attempt.settled_at - attempt.started, now, streamed=streamed)
    services.metrics.attempts(route, endpoint.name).judged(failure.kind if failure is not None else None)
    attempt.record.tokens = tokens
    if failure is not None:
        begun = "interrupted" if attempt.failure is None else "failed"
        cause = _CAUSES.get(failure.kind, begun)
        if cause != "interrupted" or attempt.kind is not STREAM:
            services.metrics.route(route).wasted(cause, now - attempt.started, tokens)


#: Failures that say something of the request itself.
_ABOUT_THE_REQUEST = (Elsewhere.NO, Elsewhere.LONGER_CONTEXT, Elsewhere.ONCE)
#: Whose fault a waste is, where it is not the attempt's own.
_CAUSES = {ErrorKind.CLIENT_DISCONNECTED: "disconnected", ErrorKind.DEADLINE_EXCEEDED: "deadline"}
#: Said when none was asked, as none could have answered in time.
_TOO_LATE = "No backend for this model has lately begun an answer within the time allowed. Allow more time."
#: Said when no endpoint could even be asked.
_NOBODY = "No backend for this model can be asked right now. Wait as long as Retry-After says, then try again."
