"""The request's way, top to bottom: accept, identify, validate, route, admit, attempt, relay, account."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from gateway import native
from gateway.attempt import AnswerKind, Attempt
from gateway.context import AttemptRecord, RequestContext
from gateway.endpoint import Endpoint
from gateway.errors.render import Rendering, render, render_frame, rendering_for
from gateway.errors.taxonomy import FailedAttempt, GatewayError
from gateway.http.connection import ClientConnection
from gateway.http.message import HOP_BY_HOP, Request
from gateway.identity import correlation_id, traceparent
from gateway.relay.sse import shape_for
from gateway.relay.stream import RawRelay, Relay, StreamRelay, StreamTimeouts
from gateway.runtime import Candidate, Route, Runtime
from gateway.services import Services
from gateway.upstream.connection import UpstreamHead
from gateway.upstream.request import correlation_lines, passed_on, request_head
from gateway.validation import Facts, InvalidRequest, check_limits, parse_body
from policies.deadline import Deadline, parse_timeout
from policies.outcome import Blame, ErrorKind, Failure

_DROPPED_FROM_ANSWERS = HOP_BY_HOP | {
    b"content-length",
    b"server",
    b"x-correlation-id",
    b"x-request-id",
    b"x-should-retry",
}


class Pipeline:
    """Handles requests on the data paths. `runtime` is swapped whole on a reload; a request keeps the one it began with."""

    def __init__(self, runtime: Runtime, services: Services) -> None:
        self.runtime = runtime
        self._services = services
        self._loop = asyncio.get_running_loop()
        self._random = random.Random()

    async def handle(self, request: Request, client: ClientConnection) -> None:
        """Answers one request, whatever happens."""
        ctx = RequestContext(request, client, correlation_id(request.headers), self.runtime)
        self._services.in_flight += 1
        try:
            self._identify(ctx)
            self._validate(ctx)
            self._route(ctx)
            self._admit(ctx)
            answer = await self._attempt(ctx)
            await self._relay(ctx, answer)
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
            self._services.in_flight -= 1
            self._account(ctx)

    def refuse(
        self, request: Request, client: ClientConnection, kind: ErrorKind, message: str, status: int | None
    ) -> None:
        """Answers what is not a usable request (the connection found it out)."""
        request.received_at = request.received_at or self._loop.time()
        ctx = RequestContext(request, client, correlation_id(request.headers), self.runtime)
        self._refuse(ctx, GatewayError(kind, message, status=status))
        self._account(ctx)
