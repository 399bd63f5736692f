"""The request's way, top to bottom: accept, identify, validate, route, admit, attempt, relay, account."""

from __future__ import annotations

import asyncio
import random
from time import monotonic

from gateway import native
from gateway.answer import answer_lines, attempt_lines, error_lines, overhead_line
from gateway.attempt import RAW, STREAM, WHOLE, Attempt
from gateway.attempts import Attempts, book
from gateway.context import RequestContext
from gateway.errors.render import render, render_frame, rendering_for
from gateway.errors.taxonomy import GatewayError
from gateway.failover import Failover
from gateway.head_reading import HeadReading, reading_of
from gateway.http.connection import ClientConnection
from gateway.http.message import Request
from gateway.http.rules import NO_ROOM
from gateway.identity import correlation_id, new_correlation_id, new_traceparent
from gateway.local import models_answer
from gateway.reduction import reduction
from gateway.relay.raw import RawRelay
from gateway.relay.relay import StreamTimeouts
from gateway.relay.stream import StreamRelay
from gateway.runtime import Route, Runtime
from gateway.services import Services
from gateway.stale import REPLACED, KeptAnswer, StaleAnswers, stale_key
from gateway.static_answer import MODEL, static_answer
from gateway.upstream.connection import UpstreamHead
from gateway.upstream.request import forwarded_for
from gateway.validation.body import parse_body
from gateway.validation.content_encoding import decoded
from gateway.validation.errors import InvalidRequest
from gateway.validation.facts import check_limits
from policies.degrade import Degradation, Level
from policies.outcome import ErrorKind, Failure

#: What a refusal of these kinds tells beside its body.
_HEADERS = {ErrorKind.AUTHENTICATION_FAILED: {"WWW-Authenticate": "Bearer"}}


class Pipeline:
    """Handles requests on the data paths. `runtime` is swapped whole on a reload; a request keeps its own."""

    def __init__(self, runtime: Runtime, services: Services, rng: random.Random | None = None) -> None:
        self.runtime = runtime
        self._services = services
        self._loop = asyncio.get_running_loop()
        self._random = rng or random.Random()

    async def handle(self, request: Request, client: ClientConnection) -> None:
        """Answers one request, whatever happens."""
        reading = reading_of(request)
        ctx = RequestContext(request, client, reading.correlation_id or new_correlation_id(), self.runtime)
        self._services.begun()
        try:
            self._identify(ctx)
            if not self._answer_locally(ctx, reading):
                self._validate(ctx, reading)
                route = self._route(ctx, reading)
                self._admit(ctx, route)
                attempts = self._attempts(ctx, route, reading)
                answer = await attempts.answer()
                await self._relay(ctx, route, attempts, answer)
        except GatewayError as error:
            if not (self._answer_stale(ctx, error) or self._answer_static(ctx, error)):
                self._refuse(ctx, error)
        except asyncio.CancelledError:
            if client.disconnected:
                ctx.error = GatewayError(ErrorKind.CLIENT_DISCONNECTED)
            elif client.cut_off:
                self._cut_off(ctx)
            else:
                raise
        except Exception:
            self._services.log.exception("internal_error", correlation_id=ctx.correlation_id, path=request.path)
            self._refuse(ctx, GatewayError(ErrorKind.INTERNAL_ERROR))
        finally:
            self._account(ctx)

    def refuse(
        self, request: Request, client: ClientConnection, kind: ErrorKind, message: str, status: int | None
    ) -> None:
        """Answers what is not a usable request; the connection found it out."""
        request.received_at = request.received_at or monotonic()
        ctx = RequestContext(request, client, correlation_id(request.headers), self.runtime)
        self._services.begun()
        self._refuse(ctx, GatewayError(kind, message, status=status, headers=_HEADERS.get(kind)))
        self._account(ctx)

    def known(self, request: Request | None) -> bool:
        """Whether a request with a large body has a key, where there are keys."""
        keys = self.runtime.keys
        return keys.open or (request is not None and keys.find(request.headers) is not None)

    # -- identify, validate, route, admit ------------------------------------------------------------------------------

    def _identify(self, ctx: RequestContext) -> None:
        keys = ctx.runtime.keys
        if proxies := ctx.runtime.proxies:
            ctx.request.peer = proxies.client(ctx.request.peer, ctx.request.headers)
        if not keys.open:
            ctx.key = keys.find(ctx.request.headers)
            if ctx.key is None:
                kind = ErrorKind.AUTHENTICATION_FAILED
                raise GatewayError(kind, headers=_HEADERS[kind])

    def _answer_locally(self, ctx: RequestContext, reading: HeadReading) -> bool:
        """Checks path and method; answers the list of models, which no backend knows whole."""
        request = ctx.request
        if reading.methods is None:
            raise GatewayError.unknown_path()
        if request.method not in reading.methods:
            raise GatewayError.method_not_allowed(reading.methods)
        if not reading.lists_models:
            return False
        body = models_answer(request.path, ctx.runtime, ctx.key)
        ctx.status = 200
        headers = b"content-type: application/json\r\n" + ctx.identity_lines
        ctx.client.send(200, headers + overhead_line(ctx, monotonic()), body)
        return True

    def _validate(self, ctx: RequestContext, reading: HeadReading) -> None:
        request = ctx.request
        try:
            if reading.content_encoding is not None:
                self._unpack(ctx, reading.content_encoding)
            ctx.facts = parse_body(request.path, reading.content_type, request.body)
            if request.path in native.PATHS:
                ctx.api_path, fields, removed = native.to_backend(request.path, ctx.facts)
                ctx.is_native = True
                ctx.rewrite(fields, removed)
        except InvalidRequest as problem:
            raise _refusal(problem) from None

    @staticmethod
    def _unpack(ctx: RequestContext, encoding: str) -> None:
        """Undoes a body's coding. Raises InvalidRequest, and GatewayError when there is no room for what was in it."""
        request = ctx.request
        plain = decoded(request.body, encoding, ctx.runtime.config.server.max_body)
        if not ctx.client.hold(len(plain) - len(request.body)):
            raise GatewayError(ErrorKind.MODEL_OVERLOADED, NO_ROOM)
        request.body = plain

    def _route(self, ctx: RequestContext, reading: HeadReading) -> Route:
        model = ctx.facts.model or ctx.query_model()
        runtime = ctx.runtime
        if model is None:
            route = runtime.default_route(ctx.request.path)
            if route is None:
                raise GatewayError.validation({"model": ["This field is required"]})
        else:
            found = runtime.routes.find(model)
            if found is None:
                raise GatewayError.model_not_found(model, runtime.routes.names)
            route = found
        ctx.model = model if model is not None else route.name
        ctx.route = route
        self._services.routed(ctx, route.name)
        ctx.deadline = ctx.request.received_at + route.timeout.total
        limit = reading.timeout
        ctx.deadline_is_told = limit is not None
        if limit is not None and limit <= route.timeout.total:
            ctx.deadline = ctx.request.received_at + limit
            ctx.deadline_is_clients = True
        return route

    def _admit(self, ctx: RequestContext, route: Route) -> None:
        try:
            check_limits(ctx.facts, route.limits)
        except InvalidRequest as problem:
            raise _refusal(problem) from None
        assert ctx.numbers is not None
        route.room.check(ctx, ctx.numbers)
        if ctx.key is not None:
            ctx.grant = ctx.runtime.key_limits.admit(ctx.key, ctx.model, ctx.facts, monotonic())
        now = monotonic()
        route.budget.deposit(now)
        if route.hedge is not None:
            route.hedge.deposit(now)
        if route.degradation is not None and route.degradation.level is not Level.FULL:
            self._degrade(ctx, route, route.degradation)

    def _degrade(self, ctx: RequestContext, route: Route, degradation: Degradation) -> None:
        """Asks for less than the client does, as the servers are under pressure."""
        fields = reduction(ctx.sent, degradation.quality, resolution=False)
        if fields:
            ctx.reduce(fields)
            ctx.degraded = degradation.level.label
            self._services.metrics.route(route.name).reduced["degraded"] += 1

    # -- attempts ------------------------------------------------------------------------------------------------------

    def _attempts(self, ctx: RequestContext, route: Route, reading: HeadReading) -> Attempts:
        """What tries endpoints until one answers."""
        ctx.own_lines = ctx.identity_lines
        if (tracing := self._services.tracing) is not None:
            ctx.trace = tracing.begin(ctx.request.headers)
        if ctx.trace is None:
            own = reading.correlation_id is None
            parent = reading.traceparent or new_traceparent(ctx.correlation_id, own=own)
            ctx.own_lines += b"traceparent: %b\r\n" % parent
        ctx.lines = reading.passed_on
        if ctx.runtime.proxies:
            ctx.own_lines += forwarded_for(ctx.request.peer)
        return Attempts(ctx, route, self._services)

    # -- relay ---------------------------------------------------------------------------------------------------------

    async def _relay(self, ctx: RequestContext, route: Route, attempts: Attempts, attempt: Attempt) -> None:
        head = attempt.head
        assert head is not None
        now = monotonic()
        lines = answer_lines(ctx, head, attempt.candidate.answer_lines(ctx.model), now)
        ctx.status = head.status
        ctx.first_token_at = attempt.settled_at
        if attempt.kind is WHOLE:
            candidate = attempt.candidate
            body = attempt.held
            if ctx.is_native:
                body = self._native_answer(ctx, body, candidate.model or ctx.model, fallback=candidate.fallback)
            if route.stale is not None:
                self._keep(ctx, route.stale, attempt, head)
            ctx.client.send(head.status, lines, body)
            return
        kind = ErrorKind.DEADLINE_EXCEEDED if ctx.deadline_is_clients else ErrorKind.INFERENCE_TIMEOUT
        timeouts = StreamTimeouts(route.timeout.idle, route.policy.stream.keepalive or float("inf"), ctx.deadline, kind)
        ctx.client.start(head.status, lines, attempt.pause, attempt.resume)
        if attempt.kind is RAW:
            failure = await self._pass_on(ctx, route, attempt, RawRelay(ctx.client, attempt, timeouts, self._loop))
        else:
            attempt, failure = await self._stream(ctx, route, attempts, attempt, timeouts)
        if failure is None:
            ctx.client.end()
        else:
            self._break_off(ctx, attempt, failure)

    async def _stream(
        self, ctx: RequestContext, route: Route, attempts: Attempts, attempt: Attempt, timeouts: StreamTimeouts
    ) -> tuple[Attempt, Failure | None]:
        """Passes a stream on to its end, at another endpoint where it breaks; how the last attempt ended."""
        failover = Failover(ctx, route, attempts, self._services, self._loop)
        passage = failover.passage(attempt)
        while True:
            ctx.client.flow(attempt.pause, attempt.resume)
            relay = StreamRelay(
                ctx.client,
                attempt,
                timeouts,
                self._loop,
                passage,
                choices=ctx.facts.choices,
            )
            failure = await self._pass_on(ctx, route, attempt, relay)
            if failure is None:
                return attempt, None
            attempt.record.failure = failure
            further = await failover.go_on(attempt, passage, failure)
            if further is None:
                return attempt, failure
            attempt, passage = further

    async def _pass_on(
        self, ctx: RequestContext, route: Route, attempt: Attempt, relay: StreamRelay | RawRelay
    ) -> Failure | None:
        """Passes one attempt's answer on to its end, and books it."""
        try:
            relay.begin()
            failure = await relay.done
        except BaseException as error:
            relay.close()
            left = isinstance(error, asyncio.CancelledError)
            kind = ErrorKind.CLIENT_DISCONNECTED if left else ErrorKind.INTERNAL_ERROR
            book(self._services, ctx, attempt, Failure(kind), relay.chunks)
            raise
        finally:
            ctx.waited(attempt.settled_at, monotonic())
        ctx.usage = relay.usage() or ctx.usage
        book(self._services, ctx, attempt, failure, relay.tokens)
        return failure

    def _keep(self, ctx: RequestContext, kept: StaleAnswers, attempt: Attempt, head: UpstreamHead) -> None:
        """Keeps a whole answer for when everything fails; not one that was made smaller or is another model's."""
        candidate = attempt.candidate
        if head.status != 200 or head.encoded or ctx.warning or ctx.degraded or candidate.fallback:
            return
        if (key := stale_key(ctx)) is not None:
            model, lines = candidate.model or ctx.model, candidate.answer_lines(ctx.model)
            kept.keep(key, KeptAnswer(attempt.held, head.content_type, lines, model, monotonic()))

    def _answer_stale(self, ctx: RequestContext, error: GatewayError) -> bool:
        """Sends an earlier answer to the same request in place of an error, where there is one."""
        kept = ctx.route.stale if ctx.route is not None else None
        if kept is None or error.kind not in REPLACED or ctx.client.head_sent or (key := stale_key(ctx)) is None:
            return False
        now = monotonic()
        answer = kept.find(key, now)
        if answer is None or ctx.route is None:
            return False
        age = int(now - answer.at)
        ctx.degraded = None  # it was made in full
        ctx.warning = f"Every backend failed ({error.kind.value}): this is an earlier answer, {age} s old."
        body = answer.body
        if ctx.is_native:
            body = self._native_answer(ctx, body, answer.model, fallback=False)
        lines = b"content-type: %b\r\nage: %d\r\nx-seawall-stale: true\r\n" % (answer.content_type, age)
        ctx.status = 200
        self._services.metrics.route(ctx.route.name).stale += 1
        ctx.client.send(200, lines + ctx.identity_lines + answer.lines + attempt_lines(ctx, now), body)
        return True

    def _answer_static(self, ctx: RequestContext, error: GatewayError) -> bool:
        """Sends the route's static answer in place of an error, where it has one that is an answer to the request."""
        route = ctx.route
        if route is None or route.static is None or error.kind not in REPLACED or ctx.client.head_sent:
            return False
        body = static_answer(ctx.api_path, ctx.facts, route.static, ctx.correlation_id, self._services.clock())
        if body is None:
            return False
        ctx.degraded = None  # nothing was made smaller: nothing was made
        ctx.warning = f"Every backend failed ({error.kind.value}): this is a fixed text, no model wrote it."
        if ctx.is_native:
            body = self._native_answer(ctx, body, MODEL, fallback=True)
        kind = b"text/event-stream" if ctx.facts.stream else b"application/json"
        lines = b"content-type: %b\r\nx-seawall-model: %b\r\nx-seawall-fallback: true\r\n" % (kind, MODEL.encode())
        ctx.status = 200
        self._services.metrics.route(route.name).static += 1
        ctx.client.send(200, lines + ctx.identity_lines + attempt_lines(ctx, monotonic()), body)
        return True

    def _native_answer(self, ctx: RequestContext, held: bytes, model: str, *, fallback: bool) -> bytes:
        told: dict[str, object] = {
            "model_used": model,
            "was_fallback": fallback,
            "correlation_id": ctx.correlation_id,
        }
        if ctx.warning is not None:
            told["warning"] = ctx.warning
        if ctx.degraded is not None:
            told["degradation_level"] = ctx.degraded
        body = native.from_backend(ctx.request.path, held, told)
        if body is None:
            raise GatewayError(ErrorKind.GENERATION_FAILED, attempts=ctx.failed_attempts())
        return body

    def _break_off(self, ctx: RequestContext, attempt: Attempt, failure: Failure) -> None:
        """A begun answer broke."""
        attempt.record.failure = failure
        self._refuse(ctx, ctx.total_failure(monotonic()))

    def _cut_off(self, ctx: RequestContext) -> None:
        """The process stops and cannot wait for this answer any longer."""
        error = GatewayError(ErrorKind.MODEL_OVERLOADED, _STOPPING, retry_after=1.0, attempts=ctx.failed_attempts())
        self._refuse(ctx, error)

    # -- errors and accounts -------------------------------------------------------------------------------------------

    def _refuse(self, ctx: RequestContext, error: GatewayError) -> None:
        ctx.error = error
        if ctx.client.head_sent:
            self._break_answer(ctx, error)
            return
        status, headers, body = render(error, ctx.rendering, ctx.correlation_id, self._services.clock())
        ctx.status = status
        lines = error_lines(headers) + ctx.identity_lines
        if ctx.attempts and (last := ctx.attempts[-1].attempt) is not None:
            lines += last.candidate.answer_lines(ctx.model)
        now = monotonic()
        lines += attempt_lines(ctx, now) if ctx.route is not None else overhead_line(ctx, now)
        ctx.client.send(status, lines, body)

    def _break_answer(self, ctx: RequestContext, error: GatewayError) -> None:
        """Ends an answer that has begun: a stream with the typed error and without `[DONE]`; others are cut visibly."""
        asked = [record.attempt for record in ctx.attempts if record.attempt is not None]
        if any(attempt.kind is STREAM for attempt in asked):
            rendering = rendering_for(ctx.request.path)
            ctx.client.end(render_frame(error, rendering, ctx.correlation_id, self._services.clock()), close=True)
        else:
            ctx.client.abort()

    def _account(self, ctx: RequestContext) -> None:
        if ctx.grant is not None:
            streamed = None if not ctx.facts.stream else ctx.bytes_out
            answered = ctx.first_token_at > 0.0
            ctx.runtime.key_limits.settle(ctx.grant, ctx.usage, streamed if answered else -1, monotonic())
        self._services.account(ctx, monotonic())


#: Said when a drain is over before the answer is.
_STOPPING = "This gateway is being restarted and could not finish the answer in time. Send the request again."


def _refusal(problem: InvalidRequest) -> GatewayError:
    if problem.field_errors:
        error = GatewayError.validation(problem.field_errors)
        error.param = problem.param or error.param
        return error
    return GatewayError(problem.kind, problem.message, code=problem.code, param=problem.param)
