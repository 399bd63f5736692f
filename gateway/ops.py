"""What operators and monitors ask: health, status, errors, metrics, the stories of requests. Served by aiohttp."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from gateway import __version__
from gateway.admin import access
from gateway.admin.views import CORRELATION, routes
from gateway.errors.render import iso_timestamp, render, rendering_for
from gateway.errors.taxonomy import GatewayError
from gateway.http.message import HOP_BY_HOP, Request
from gateway.identity import correlation_id as identify
from gateway.observe.error_stats import report_of
from gateway.observe.exposition import expose, merge
from gateway.openapi import document
from gateway.paths import HEALTH_PATHS
from gateway.processes import answers
from gateway.processes.merge import merge_endpoints, merge_route
from policies.outcome import ErrorKind

if TYPE_CHECKING:
    from gateway.app import Gateway

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
#: Answers without the operator's key: they tell monitors what they need and nothing about requests.
_OPEN = HEALTH_PATHS | {"/openapi.json"}
#: Seconds that a client may take to read an answer.
_PATIENCE = 60.0
#: When a request came (monotonic seconds).
_BEGAN = web.RequestKey("began", float)
#: Header lines that `as_bytes` adds at most.
_ADDED = 4


def belongs_here(path: str, separate_listener: bool) -> bool:
    """Whether the data listener serves the path; with a listener for operators it keeps only the health paths."""
    return not separate_listener or path in ("/livez", "/readyz", "/health")


def patience(path: str) -> float:
    """Seconds within which an answer must have been read. The page's stream sees to that itself."""
    return inf if path == "/admin/events" else _PATIENCE


def as_bytes(request: Request, correlation: str) -> bytes:
    """The request as HTTP/1.1 for aiohttp, to be answered once: the connection closes after it.

    HTTP/1.0, which load balancers' checks still speak, has no `Host`; aiohttp wants one.
    """
    dropped = HOP_BY_HOP | {b"content-length", b"expect", b"host", b"x-correlation-id"}
    lines = [b"%b: %b\r\n" % item for item in request.headers.items() if item[0] not in dropped]
    head = b"%b %b HTTP/1.1\r\n%b" % (request.method.encode("ascii"), request.target, b"".join(lines))
    own = b"host: %b\r\nx-correlation-id: %b\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    host = request.headers.get(b"host") or b"localhost"
    return head + own % (host, correlation.encode("ascii"), len(request.body)) + request.body


def application(gateway: Gateway) -> web.Application:
    """The aiohttp application for all operations' paths."""

    @web.middleware
    async def contract(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.items()
        request[_BEGAN] = monotonic()
        correlation = identify({name.lower().encode(): value.encode(errors="surrogateescape") for name, value in given})
        request[CORRELATION] = correlation
        try:
            _authorise(gateway, request)
            return await handler(request)
        except GatewayError as error:
            response = _error(error, request, correlation, gateway)
            if error.kind is ErrorKind.AUTHENTICATION_FAILED and request.path in ("/admin", "/admin/"):
                response.headers["WWW-Authenticate"] = access.CHALLENGE
        except web.HTTPNotFound:
            response = _error(GatewayError.unknown_path(), request, correlation, gateway)
        except web.HTTPMethodNotAllowed as refused:
            allowed = sorted(refused.allowed_methods)
            response = _error(GatewayError.method_not_allowed(allowed), request, correlation, gateway)
        except web.HTTPException:
            raise
        except Exception:
            gateway.services.log.exception("internal_error", correlation_id=correlation, path=request.path)
            response = _error(GatewayError(ErrorKind.INTERNAL_ERROR), request, correlation, gateway)
        return response

    app = web.Application(middlewares=[contract])
    app.on_response_prepare.append(_identified)
    views = _Views(gateway)
    app.add_routes(
        [
            web.get("/livez", views.livez),
            web.get("/readyz", views.readyz),
            web.get("/health", views.health),
            web.get("/metrics", views.metrics),
            web.get("/status", views.status),
            web.get("/errors", views.errors),
            web.get("/requests/{correlation_id:.+}", views.request),
            web.get("/openapi.json", views.openapi),
            *routes(gateway),
        ]
    )
    return app


def runner(gateway: Gateway) -> web.AppRunner:
    """What serves the application: it takes the heads that the data listener takes, and bodies as they come."""
    limits = gateway.server.limits
    return web.AppRunner(
        application(gateway),
        access_log=None,
        shutdown_timeout=2.0,
        max_line_size=limits.max_header_size,
        max_field_size=limits.max_header_size,
        max_headers=limits.max_headers + _ADDED,
        auto_decompress=False,
    )


class _Views:
    """One method a path."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def livez(self, request: web.Request) -> web.Response:
        """The process runs and its loop turns."""
        return _json({"status": "ok"})

    async def readyz(self, request: web.Request) -> web.Response:
        """200 when requests can be served, if only those of one route: a model that is down is so for every replica,
        and a load balancer that left them all would make its outage that of all."""
        monitor = self._gateway.monitor
        if self._gateway.draining:
            return _json({"status": "draining"}, 503)
        report = await monitor.report()
        if report["overall_status"] == "critical" and not monitor.serves:
            return _json({"status": "not ready", "critical_failures": report["critical_failures"]}, 503)
        return _json({"status": "ready"})

    async def health(self, request: web.Request) -> web.Response:
        report = await self._gateway.monitor.report()
        return _json(report, 503 if report["overall_status"] == "critical" else 200)

    async def metrics(self, request: web.Request) -> web.Response:
        """The numbers of all workers, added up."""
        gateway = self._gateway
        own = gateway.metrics.snapshot()
        others = await gateway.peers.ask("metrics", own=own)
        content_type, body = expose(merge((own, *others)), request.headers.get("Accept"))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def status(self, request: web.Request) -> web.Response:
        gateway = self._gateway
        clock = gateway.services.clock()
        workers = [answers.status(gateway), *await gateway.peers.ask("status")]
        return _json(
            {
                "version": __version__,
                "uptime": (uptime := max(one["uptime_seconds"] for one in workers)),
                "uptime_seconds": uptime,
                "timestamp": iso_timestamp(clock),
                "draining": gateway.draining,
                "health": await gateway.monitor.report(),
                "errors": await self._errors(clock),
                "endpoints": merge_endpoints(workers),
                "routes": [
                    {
                        "name": route.name,
                        "models": route.patterns,
                        "tiers": [[candidate.endpoint.name for candidate in tier] for tier in route.tiers],
                        **merge_route([one["routes"][route.name] for one in workers if route.name in one["routes"]]),
                    }
                    for route in gateway.runtime.routes.routes
                ],
                "requests_in_flight": sum(one["requests_in_flight"] for one in workers),
                "connections": sum(one["connections"] for one in workers),
                "workers": sorted((_worker(one) for one in workers), key=lambda one: one["pid"]),
            }
        )

    async def errors(self, request: web.Request) -> web.Response:
        return _json(await self._errors(self._gateway.services.clock()))

    async def _errors(self, now: float) -> dict[str, Any]:
        return report_of([answers.errors(self._gateway), *await self._gateway.peers.ask("errors")], now)

    async def request(self, request: web.Request) -> web.Response:
        """The stories of a recent request, newest first, whichever worker has answered it."""
        wanted = request.match_info["correlation_id"]
        others = await self._gateway.peers.ask("stories", correlation_id=wanted)
        stories = [*answers.stories(self._gateway, wanted), *(story for found in others for story in found)]
        if not stories:
            message = "No recent request has this correlation ID. Only the latest are kept."
            raise GatewayError(ErrorKind.INVALID_INPUT, message, status=404, code="unknown_request")
        stories.sort(key=lambda story: story["timestamp"], reverse=True)
        return _json({**stories[0], "earlier": stories[1:]})

    async def openapi(self, request: web.Request) -> web.Response:
        return _json(document())


async def _identified(request: web.Request, response: web.StreamResponse) -> None:
    """Puts on an answer, whatever sort it is, what every answer says; just before its head goes out."""
    response.headers["Server"] = "seawall"
    response.headers["X-Correlation-ID"] = response.headers["X-Request-ID"] = request[CORRELATION]
    response.headers["X-Seawall-Overhead-Ms"] = f"{(monotonic() - request[_BEGAN]) * 1000:.3f}"


def _authorise(gateway: Gateway, request: web.Request) -> None:
    """Lets operators in: with the key, or from this machine. Raises GatewayError."""
    if request.path not in _OPEN:
        access.may_read(request.headers, request.remote, gateway.runtime.config.server.admin.key)


def _worker(status: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in status.items() if name not in ("endpoints", "routes")}


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value, default=str), status=status, content_type="application/json")


def _error(error: GatewayError, request: web.Request, correlation: str, gateway: Gateway) -> web.Response:
    rendering = rendering_for(request.path, request.headers.get("Accept"))
    status, headers, body = render(error, rendering, correlation, gateway.services.clock())
    return web.Response(body=body, status=status, headers=headers)
