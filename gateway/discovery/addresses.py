"""What a source finds: addresses of one backend."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

#: Endpoints of one backend at most; each is a label value.
MOST = 256


class Address(NamedTuple):
    """Where an endpoint listens; `host` is an IP address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def bounded(addresses: Iterable[Address]) -> tuple[Address, ...]:
    """Without repetitions, in order, and at most `MOST` of them."""
    return tuple(sorted(set(addresses)))[:MOST]


#: Told of all addresses each time that they were found, changed or not.
Told = Callable[[tuple[Address, ...]], None]
#: Told why they could not be found, without hosts.
Failed = Callable[[str], None]


class Source(Protocol):
    """Looks for one backend's addresses until it is cancelled. Keeps to itself how often."""

    async def run(self, told: Told, failed: Failed) -> None: ...


async def pause(seconds: float) -> None:
    """Waits; a seam for tests of how long."""
    await asyncio.sleep(seconds)
