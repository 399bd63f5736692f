"""The request's way, top to bottom: accept, identify, validate, route, admit, attempt, relay, account."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from gateway import native
from gateway.answer import answer_lines, attempt_lines, error_lines, identity_lines
from gateway.attempt import AnswerKind, Attempt
from gateway.context import AttemptRecord, RequestContext
from gateway.errors.render import Rendering, render, render_frame, rendering_for
from gateway.errors.taxonomy import GatewayError
from gateway.http.connection import ClientConnection
from gateway.http.message import Request
from gateway.identity import correlation_id, traceparent
from gateway.local import models_answer
from gateway.paths import is_served, methods_for
from gateway.race import Race
from gateway.relay.sse import shape_for
from gateway.relay.stream import RawRelay, Relay, StreamRelay, StreamTimeouts
from gateway.runtime import Candidate, Route, Runtime
from gateway.services import Services
from gateway.upstream.request import correlation_lines, passed_on, request_head
from gateway.validation.body import parse_body
from gateway.validation.errors import InvalidRequest
from gateway.validation.facts import check_limits
from policies.deadline import parse_timeout
from policies.outcome import ErrorKind, Failure


class Pipeline:
    """Handles requests on the data paths. `runtime` is swapped whole on a reload; a request keeps its own."""

    def __init__(self, runtime: Runtime, services: Services, rng: random.Random | None = None) -> None:
        self.runtime = runtime
        self._services = services
        self._loop = asyncio.get_running_loop()
        self._random = rng or random.Random()

    async def handle(self, request: Request, client: ClientConnection) -> None:
        """Answers one request, whatever happens."""
        ctx = RequestContext(request, client, correlation_id(request.headers), self.runtime)
        self._services.begun()
        try:
            self._identify(ctx)
            if not self._answer_locally(ctx):
                self._validate(ctx)
                route = self._route(ctx)
                self._admit(ctx, route)
                answer = await self._attempt(ctx, route)
                await self._relay(ctx, route, answer)
        except GatewayError as error:
            self._refuse(ctx, error)
        except asyncio.CancelledError:
            if not client.disconnected:
                raise
            ctx.error = GatewayError(ErrorKind.CLIENT_DISCONNECTED)
        except Exception:
            self._services.log.exception("internal_error", correlation_id=ctx.correlation_id, path=request.path)
            self._refuse(ctx, GatewayError(ErrorKind.INTERNAL_ERROR))
        finally:
            self._account(ctx)

    def refuse(
        self, request: Request, client: ClientConnection, kind: ErrorKind, message: str, status: int | None
    ) -> None:
        """Answers what is not a usable request; the connection found it out."""
        request.received_at = request.received_at or self._loop.time()
        ctx = RequestContext(request, client, correlation_id(request.headers), self.runtime)
        self._services.begun()
        self._refuse(ctx, GatewayError(kind, message, status=status))
        self._account(ctx)

    # -- identify, validate, route, admit ------------------------------------------------------------------------------

    def _identify(self, ctx: RequestContext) -> None:
        keys = ctx.runtime.keys
        if not keys.open:
            ctx.key = keys.find(ctx.request.headers)
            if ctx.key is None:
                raise GatewayError(ErrorKind.AUTHENTICATION_FAILED, headers={"WWW-Authenticate": "Bearer"})

    def _answer_locally(self, ctx: RequestContext) -> bool:
        """Checks path and method; answers the list of models, which no backend knows whole."""
        request = ctx.request
        if not is_served(request.path):
            raise GatewayError.unknown_path()
        allowed = methods_for(request.path)
        if request.method not in allowed:
            raise GatewayError.method_not_allowed(allowed)
        if not request.path.startswith("/v1/models"):
            return False
        body = models_answer(request.path, ctx.runtime, ctx.key)
        ctx.status = 200
        headers = b"content-type: application/json\r\n" + identity_lines(ctx.correlation_id)
        ctx.client.send(200, headers, body)
        return True

    def _validate(self, ctx: RequestContext) -> None:
        request = ctx.request
        try:
            ctx.facts = parse_body(request.path, request.header(b"content-type") or "", request.body)
            if request.path in native.PATHS:
                ctx.api_path, fields, removed = native.to_backend(request.path, ctx.facts)
                ctx.rewrite(fields, removed)
        except InvalidRequest as problem:
            raise _refusal(problem) from None

    def _route(self, ctx: RequestContext) -> Route:
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
        ctx.deadline = ctx.request.received_at + route.timeout.total
        limit = parse_timeout(ctx.request.header(b"x-request-timeout"))
        if limit is not None and limit <= route.timeout.total:
            ctx.deadline = ctx.request.received_at + limit
            ctx.deadline_is_clients = True
        return route

    def _admit(self, ctx: RequestContext, route: Route) -> None:
        try:
            check_limits(ctx.facts, route.limits)
        except InvalidRequest as problem:
            raise _refusal(problem) from None
        if ctx.key is not None:
            ctx.runtime.key_limits.admit(ctx.key, ctx.model, self._loop.time())
            ctx.holds_key_slot = True
        route.budget.deposit(self._loop.time())

    # -- attempts ------------------------------------------------------------------------------------------------------

    async def _attempt(self, ctx: RequestContext, route: Route) -> Attempt:
        """Tries endpoints until one answers. Raises GatewayError when none can.

        An attempt without an answer after `first_token` is not cut off (a long prompt may rightly take that long):
        another one is started beside it, and whichever answers first is taken.
        """
        ctx.lines = passed_on(ctx.request.headers) + correlation_lines(
            ctx.correlation_id, traceparent(ctx.request.headers, ctx.correlation_id)
        )
        race = Race(self._loop)
        plan = route.plan(ctx)
        try:
            while True:
                now = self._loop.time()
                if race.wants_another:
                    choice = plan.next(now)
                    if choice is not None:
                        if choice.delay > 0:
                            await self._pause(ctx, choice.delay)
                        race.add(self._start(ctx, route, choice.candidate, choice.why, race.settle))
                    elif not race.running:
                        raise self._total_failure(ctx, route)
                attempt = await race.next(min(ctx.deadline, race.slow_at(route.timeout.first_token)))
                now = self._loop.time()
                if attempt is not None:
                    race.remove(attempt)
                    self._judged(ctx, attempt)
                    if attempt.failure is None:
                        return attempt
                    plan.failed(attempt.candidate, attempt.failure, now)
                elif now >= ctx.deadline:
                    raise self._out_of_time(ctx, race)
                else:
                    self._slow(ctx, plan, race, now)
        finally:
            for loser in race.running:
                loser.cancel()
                self._judged(ctx, loser)
