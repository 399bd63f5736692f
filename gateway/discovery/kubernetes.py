"""Addresses by the Kubernetes API: the EndpointSlices of a service, listed once and then watched.

After https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes: a watch goes on from
the last resource version; where that is too old (410), all is listed anew. Rights needed: list and watch of
endpointslices.discovery.k8s.io in the service's namespace.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import orjson

from gateway.discovery.addresses import Address, Failed, Told, bounded, pause

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: Seconds that the server keeps a watch open, and after which a silent one is given up.
_WATCH = 120
_SILENT = 150.0
_TIMEOUT = 10.0
_FIRST_RETRY, _LAST_RETRY = 0.5, 15.0
#: Seconds that a watch lasts at least. What stands between may end each at once: then the next one waits.
_LASTING = 1.0
_LABEL = "kubernetes.io/service-name"
_MAX_LINE = 8 * 2**20


class _GoneError(Exception):
    """The resource version is too old to go on from."""


class KubernetesSource:
    """The service that a url's host names: `service`, `service.namespace` or `service.namespace.svc…`.

    Its port is found by number, else the only port, else the one named `http`: a service's port and its endpoints' may
    differ.
    """

    def __init__(self, host: str, port: int, account: Path | None = None) -> None:
        account = account or SERVICE_ACCOUNT
        self._account = account
        self._port = port
        name, _, rest = host.partition(".")
        namespace = rest.partition(".")[0] or _text(account / "namespace") or "default"
        server = os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
        server = f"[{server}]" if ":" in server else server
        self._url = (
            f"https://{server}:{os.environ.get('KUBERNETES_SERVICE_PORT', '443')}"
            f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        )
        self._query = {"labelSelector": f"{_LABEL}={name}"}
        self._slices: dict[str, Mapping[str, Any]] = {}
        self._version = ""

    async def run(self, told: Told, failed: Failed) -> None:
        """What was found is kept while the API does not answer."""
        delay = _FIRST_RETRY
        while True:
            began = monotonic()
            try:
                timeout = aiohttp.ClientTimeout(total=None, sock_connect=_TIMEOUT, sock_read=_SILENT)
                connector = aiohttp.TCPConnector(ssl=await asyncio.to_thread(self._tls))
                async with aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=2**18) as session:
                    while await self._follow(session, told):
                        pass
            except _GoneError:
                self._version = ""
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError) as error:
                status = getattr(error, "status", None)
                failed(type(error).__name__ if status is None else f"the API answers {status}")
            delay = _FIRST_RETRY if monotonic() - began >= _LAST_RETRY else delay  # it had gone well for a while
            await pause(delay)
            delay = min(delay * 2, _LAST_RETRY)

    async def _follow(self, session: aiohttp.ClientSession, told: Told) -> bool:
        """Tells of the addresses until a watch ends; whether it lasted, or else the next had better wait."""
        if not self._version:
            await self._list(session)
        told(self._addresses())
        began = monotonic()
        async for _ in self._watch(session):
            told(self._addresses())
        return monotonic() - began >= _LASTING

    def _tls(self) -> ssl.SSLContext:
        authority = self._account / "ca.crt"
        return ssl.create_default_context(cafile=str(authority) if authority.exists() else None)

    async def _headers(self) -> dict[str, str]:
        # Read each time: the token is replaced about once an hour.
        token = await asyncio.to_thread(_text, self._account / "token")
        return {"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})

    async def _list(self, session: aiohttp.ClientSession) -> None:
        async with asyncio.timeout(_TIMEOUT):
            async with session.get(self._url, params=self._query, headers=await self._headers()) as answer:
                answer.raise_for_status()
                found = orjson.loads(await answer.read())
        self._slices = {item["metadata"]["name"]: item for item in found.get("items") or ()}
        self._version = found["metadata"]["resourceVersion"]

    async def _watch(self, session: aiohttp.ClientSession) -> AsyncIterator[None]:
        """Yields after each change, and ends with the server's connection. Raises _GoneError."""
        query = self._query | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(_WATCH),
        }
        async with session.get(self._url, params=query, headers=await self._headers()) as answer:
            if answer.status == 410:
                raise _GoneError
            answer.raise_for_status()
            async for line in _lines(answer.content):
                if self._take(orjson.loads(line)):
                    yield

    def _take(self, event: Mapping[str, Any]) -> bool:
        """Takes over one event; whether the slices have changed."""
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            if item.get("code") == 410:
                raise _GoneError
            raise ValueError("the watch failed")
        self._version = item["metadata"]["resourceVersion"]
        if kind == "BOOKMARK":
            return False
        name = item["metadata"]["name"]
        if kind == "DELETED":
            self._slices.pop(name, None)
        else:
            self._slices[name] = item
        return True

    def _addresses(self) -> tuple[Address, ...]:
        return bounded(address for item in self._slices.values() for address in self._ready(item))

    def _ready(self, item: Mapping[str, Any]) -> list[Address]:
        if item.get("addressType") not in ("IPv4", "IPv6"):
            return []
        port = self._port_of(item.get("ports") or ())
        if port is None:
            return []
        return [
            Address(host, port)
            for endpoint in item.get("endpoints") or ()
            if (endpoint.get("conditions") or {}).get("ready") is not False  # null counts as ready
            for host in endpoint["addresses"][:1]  # further ones are the same endpoint
        ]

    def _port_of(self, ports: Any) -> int | None:
        numbers = {port.get("name") or "": port["port"] for port in ports if port.get("port")}
        if self._port in numbers.values():
            return self._port
        if len(numbers) == 1:
            return int(next(iter(numbers.values())))
        return numbers.get("http")


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a body, of bounded length. Raises ValueError for a longer one."""
    rest = b""
    async for chunk in content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line:
                yield line
        if len(rest) > _MAX_LINE:
            raise ValueError("a line of the watch is too long")


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
