"""The part of the Kubernetes API that watches EndpointSlices, over HTTPS, with a token."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any, Self

import orjson
import trustme
from aiohttp import web

TOKEN = "token-of-the-service-account"
_PATH = "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"


def slice_of(name: str, *addresses: str, port: int, ready: bool | None = True) -> dict[str, Any]:
    """An EndpointSlice as the API writes it; the resource version is set by the server."""
    return {
        "metadata": {"name": name, "namespace": "models", "labels": {"kubernetes.io/service-name": "llama"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [one], "conditions": {"ready": ready, "serving": True}} for one in addresses],
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}, {"name": "metrics", "port": 9, "protocol": "TCP"}],
    }


class KubernetesApi:
    """Serves lists and watches. `account` is the folder of the service account that may ask."""

    def __init__(self, folder: Path) -> None:
        self.account = folder / "serviceaccount"
        self.account.mkdir()
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(self._tls)
        (self.account / "ca.crt").write_bytes(authority.cert_pem.bytes())
        (self.account / "token").write_text(TOKEN + "\n")
        (self.account / "namespace").write_text("models")
        self.requests: list[dict[str, str]] = []
        self.port = 0
        self._version = 100
        self._oldest = 0  # versions before it are gone
        self._slices: dict[str, dict[str, Any]] = {}
        self._events: list[tuple[int, dict[str, Any]]] = []
        self._changed = asyncio.Condition()
        self.hasty = False  # ends each watch at once
        self._cut = 0
        self._runner: web.AppRunner | None = None

    async def put(self, item: dict[str, Any]) -> None:
        """Adds or changes a slice."""
        name = item["metadata"]["name"]
        kind = "MODIFIED" if name in self._slices else "ADDED"
        await self._event(kind, item)
        self._slices[name] = item

    async def delete(self, name: str) -> None:
        """Takes a slice out."""
        await self._event("DELETED", self._slices.pop(name))

    async def cut(self, *, forget: bool = False) -> None:
        """Ends all watches; with `forget`, no version up to now can be gone on from (410)."""
        async with self._changed:
            self._cut += 1
            if forget:
                self._version += 1
                self._oldest = self._version
            self._changed.notify_all()

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get(_PATH, self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def stop(self) -> None:
        """Gone, as a control plane that restarts."""
        await self.cut()
        assert self._runner is not None
        await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _event(self, kind: str, item: dict[str, Any]) -> None:
        async with self._changed:
            self._version += 1
            item["metadata"]["resourceVersion"] = str(self._version)
            self._events.append((self._version, {"type": kind, "object": orjson.loads(orjson.dumps(item))}))
            self._changed.notify_all()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(dict(request.query))
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.json_response({"kind": "Status", "code": 401}, status=401)
        service = request.query["labelSelector"].partition("=")[2]
        if request.match_info["namespace"] != "models" or service != "llama":
            return web.json_response({"metadata": {"resourceVersion": str(self._version)}, "items": []})
        if request.query.get("watch") != "true":
            body = {"metadata": {"resourceVersion": str(self._version)}, "items": list(self._slices.values())}
            return web.json_response(body)
        return await self._watch(request)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        seen, cut = int(request.query["resourceVersion"]), self._cut
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        if seen < self._oldest:
            gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}
            await answer.write(orjson.dumps(gone) + b"\n")
            return answer
        bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(self._version)}}}
        await answer.write(orjson.dumps(bookmark) + b"\n") if seen == self._version else None
        while self._cut == cut and not self.hasty:
            for version, event in self._events:
                if version > seen:
                    line = orjson.dumps(event) + b"\n"
                    await answer.write(line[:20])  # in pieces, as networks do
                    await answer.write(line[20:])
                    seen = version
            async with self._changed:
                await self._changed.wait_for(lambda: self._cut != cut or self._version > seen)  # noqa: B023
        return answer
