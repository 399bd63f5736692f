"""Keeps the addresses of all backends that are to be found."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from gateway.config.schema import BackendConfig, Config
from gateway.discovery.addresses import Address, Source
from gateway.discovery.dns import DnsSource, check_client
from gateway.discovery.kubernetes import KubernetesSource

#: Seconds that the start waits for the first addresses.
PATIENCE = 5.0


def check(config: Config) -> None:
    """Raises OSError when a library for what the configuration wants is not installed."""
    if any(backend.discover == "dns" for backend in config.backends.values()):
        check_client()


class Discovery:
    """`found` has each backend's addresses, a new mapping with each change; `changed` is told of it in the loop's next
    turn."""

    def __init__(self, changed: Callable[[], None], log: Any) -> None:
        self.found: Mapping[str, tuple[Address, ...]] = {}
        self._changed = changed
        self._log = log
        self._sources: dict[str, tuple[tuple[str, str], asyncio.Task[None]]] = {}
        self._unanswered: dict[str, asyncio.Event] = {}
        self._failing: set[str] = set()
        self._scheduled = False

    def counts(self) -> dict[str, int]:
        """How many addresses were found, for each backend that is looked for."""
        return {name: len(self.found.get(name, ())) for name in self._sources}

    def update(self, config: Config) -> None:
        """Looks for the backends of this configuration from now on; those that stay keep what was found."""
        wanted = {name: (b.discover, b.url) for name, b in config.backends.items() if b.discover is not None}
        for name, (kind, task) in list(self._sources.items()):
            if wanted.get(name) != kind:
                task.cancel()
                del self._sources[name]
                self._failing.discard(name)
                self.found = {other: found for other, found in self.found.items() if other != name}
        for name, kind in wanted.items():
            if name not in self._sources:
                self._unanswered[name] = asyncio.Event()
                task = asyncio.create_task(self._run(name, source_for(config.backends[name])), name=f"discover-{name}")
                self._sources[name] = kind, task

    async def first(self) -> None:
        """Waits until each backend has been looked for once, or for `PATIENCE` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                for event in list(self._unanswered.values()):
                    await event.wait()

    async def stop(self) -> None:
        """Ends the search."""
        tasks = [task for _, task in self._sources.values()]
        self._sources = {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, name: str, source: Source) -> None:
        def told(addresses: tuple[Address, ...]) -> None:
            self._answered(name)
            if name in self._failing:
                self._failing.discard(name)
                self._log.info("discovery_back", backend=name)
            before = self.found.get(name, ())
            if addresses != before:
                self.found = {**self.found, name: addresses}
                added = [str(one) for one in addresses if one not in before]
                removed = [str(one) for one in before if one not in addresses]
                self._log.info("discovered", backend=name, endpoints=len(addresses), added=added, removed=removed)
                self._schedule()

        def failed(reason: str) -> None:
            self._answered(name)
            if name not in self._failing:
                self._failing.add(name)
                self._log.warning("discovery_failed", backend=name, reason=reason)

        try:
            await source.run(told, failed)
        except asyncio.CancelledError:
            raise
        except Exception:
            self._log.exception("discovery_ended", backend=name)

    def _answered(self, name: str) -> None:
        event = self._unanswered.pop(name, None)
        if event is not None:
            event.set()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._scheduled = False
        self._changed()


def source_for(backend: BackendConfig) -> Source:
    """Where to look for a backend's endpoints."""
    url = urlsplit(backend.url)
    host = url.hostname or ""
    port = url.port or (443 if url.scheme == "https" else 80)
    return KubernetesSource(host, port) if backend.discover == "kubernetes" else DnsSource(host, port)
