"""The page, its JSON and its acts as aiohttp handlers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache
from importlib.resources import files
from time import monotonic
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from gateway.admin import access, stories
from gateway.admin.access import Actor
from gateway.admin.acts import Verb, perform
from gateway.admin.reloading import apply, preview
from gateway.errors.taxonomy import GatewayError
from policies.outcome import ErrorKind

if TYPE_CHECKING:
    from gateway.app import Gateway

#: Nothing from elsewhere, nothing inline, in no frame; forms go nowhere.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_STATIC = ("style.css", "app.js", "charts.js", "dom.js", "format.js", "acts.js", "requests.js", "icon.svg")
_MAX_ACT = 4096
#: The request's correlation ID.
CORRELATION = web.RequestKey("correlation", str)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def routes(gateway: Gateway) -> list[web.RouteDef]:
    """Everything under `/admin`."""
    views = _Views(gateway)
    return [
        web.get("/admin", views.page),
        web.get("/admin/", views.page),
        *(web.get(f"/admin/{name}", views.static) for name in _STATIC),
        web.get("/admin/state", views.state),
        web.get("/admin/events", views.events),
        web.get("/admin/requests", views.requests),
        web.post("/admin/backends/{name:.+}/breaker/{verb:open|reset}", views.breaker),
        web.post("/admin/backends/{name:.+}/{verb:drain|eject|restore}", views.service),
        web.post("/admin/reload", views.reload),
    ]


class _Views:
    """One method a path. Who may read has been asked before; who may act is asked here."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def page(self, request: web.Request) -> web.Response:
        return _file("index.html")

    async def static(self, request: web.Request) -> web.Response:
        return _file(request.path.rpartition("/")[2])

    async def state(self, request: web.Request) -> web.Response:
        """Everything the page shows."""
        return _json(await self._gateway.admin.state())

    async def events(self, request: web.Request) -> web.StreamResponse:
        """`snapshot` once, then `state` every second."""
        admin = self._gateway.admin
        return await admin.events.serve(request, await admin.snapshot())

    async def requests(self, request: web.Request) -> web.Response:
        """Recent requests by text and outcome."""
        search = stories.Search.of(request.query)
        return _json({"requests": await self._gateway.admin.requests(search), "limit": search.limit})

    async def service(self, request: web.Request) -> web.Response:
        return await self._upon_backend(request, Verb(request.match_info["verb"]))

    async def breaker(self, request: web.Request) -> web.Response:
        return await self._upon_backend(request, Verb(f"breaker/{request.match_info['verb']}"))

    async def _upon_backend(self, request: web.Request, verb: Verb) -> web.Response:
        gateway, backend = self._gateway, request.match_info["name"]
        actor, body = await self._let_in(request, verb.value, backend)
        done = perform(gateway.runtime.endpoints, verb, backend, monotonic())
        await gateway.peers.ask("act", verb=verb.value, backend=backend)
        outcome = "done" if done["changed"] else "unchanged"
        gateway.admin.audit.record(
            actor, verb.value, backend, outcome, reason=body.get("reason", ""), correlation_id=request[CORRELATION]
        )
        gateway.monitor.expire()
        await gateway.admin.refresh()
        return _json(done)

    async def reload(self, request: web.Request) -> web.Response:
        """With `dry_run`, what a reload would change; else the reload, if the file is still as `revision` says."""
        gateway = self._gateway
        actor, body = await self._let_in(request, "reload", None)
        if gateway.path is None:
            raise GatewayError(ErrorKind.INVALID_INPUT, "This gateway was not started from a file.", status=409)
        shown, config = preview(gateway.path, gateway.runtime.config)
        if request.query.get("dry_run", "").lower() in ("1", "true", "yes"):
            return _json({**shown.to_dict(), "applied": False})
        wanted = body.get("revision")
        problem: str | None = None
        if config is None:
            problem = "The file has errors; nothing was changed."
        elif wanted is not None and wanted != shown.revision:
            problem = "The file has changed since it was shown; nothing was changed. Look at it again."
        else:
            elsewhere = await gateway.peers.reload()
            problem = apply(config, gateway.take) if elsewhere is None else "; ".join(elsewhere) or None
        gateway.admin.audit.record(
            actor,
            "reload",
            None,
            "done" if problem is None else "refused",
            reason=body.get("reason", ""),
            detail=problem or f"{len(shown.changes)} changes, revision {shown.revision}",
            correlation_id=request[CORRELATION],
            changes=shown.changes,
        )
        await gateway.admin.refresh()
        return _json(
            {**shown.to_dict(), "applied": problem is None, "message": problem}, 200 if problem is None else 409
        )

    async def _let_in(self, request: web.Request, verb: str, backend: str | None) -> tuple[Actor, dict[str, Any]]:
        """Who acts, and the act's body. Raises GatewayError, and logs the refusal."""
        key = self._gateway.runtime.config.server.admin.key
        try:
            actor = access.may_act(request.headers, request.remote, key)
            body = await _body(request)
        except GatewayError as error:
            self._gateway.admin.audit.refused(
                request.remote, verb, backend, error.kind.value, correlation_id=request[CORRELATION]
            )
            raise
        name = access.plain_name(body.get("operator", "")) or actor.name
        return Actor(actor.by, actor.peer, name), body


async def _body(request: web.Request) -> dict[str, Any]:
    """The act's JSON object: `operator`, `reason`, `revision`, all texts and optional. Raises GatewayError."""
    raw = await request.content.read(_MAX_ACT + 1)
    try:
        body = orjson.loads(raw or b"{}") if len(raw) <= _MAX_ACT else None
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict) or not all(isinstance(value, str) for value in body.values()):
        message = f"An act's body is a JSON object of texts (operator, reason, revision) of at most {_MAX_ACT} bytes."
        raise GatewayError(ErrorKind.INVALID_INPUT, message)
    return body


@lru_cache(maxsize=32)
def _content(name: str) -> bytes:
    return files("gateway.admin").joinpath("static", name).read_bytes()


def _file(name: str) -> web.Response:
    media = _TYPES[name.rpartition(".")[2]]
    headers = {**SECURITY_HEADERS, "Cache-Control": "no-cache"}
    return web.Response(body=_content(name), content_type=media, charset="utf-8", headers=headers)


def _json(value: Any, status: int = 200) -> web.Response:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    body = orjson.dumps(value, default=str)
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)
