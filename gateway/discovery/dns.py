"""Addresses by DNS: A and AAAA records, asked again when their time to live is over."""

from __future__ import annotations

import importlib.util
import random
from typing import TYPE_CHECKING, Any

from gateway.discovery.addresses import Address, Failed, Told, bounded, pause

if TYPE_CHECKING:
    import dns.asyncresolver

#: Seconds between two questions: a time to live is kept to within these.
SHORTEST = 1.0
LONGEST = 30.0
#: Seconds until the next question after one that failed, and for an answer.
RETRY = 2.0
TIMEOUT = 5.0
_JITTER = 0.1


def check_client() -> None:
    """Raises OSError when the library is not installed."""
    if importlib.util.find_spec("dns") is None:
        raise OSError(0, "discover: dns needs dnspython: pip install 'seawall[discovery]'", "dns")


class DnsSource:
    """One name. `resolver` None is the system's, from /etc/resolv.conf."""

    def __init__(self, host: str, port: int, resolver: dns.asyncresolver.Resolver | None = None) -> None:
        self._host = host
        self._port = port
        self._resolver = resolver

    async def run(self, told: Told, failed: Failed) -> None:
        """Addresses that a question does not find are kept until one finds others: a name server that fails is no
        reason to drop backends that work."""
        while True:
            wait = RETRY
            try:
                addresses, ttl = await self._ask()
            except Exception as error:  # what name servers answer has no end of ways to be wrong
                failed(type(error).__name__)
            else:
                told(addresses)
                wait = min(max(ttl, SHORTEST), LONGEST)
            await pause(wait * (1 - _JITTER * random.random()))

    async def _ask(self) -> tuple[tuple[Address, ...], float]:
        import dns.asyncresolver
        import dns.resolver

        resolver = self._resolver or dns.asyncresolver.get_default_resolver()
        found: list[Address] = []
        ttl = LONGEST
        missing: Exception | None = None
        for kind in ("A", "AAAA"):
            try:
                answer: Any = await resolver.resolve(self._host, kind, lifetime=TIMEOUT, search=True)
            except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN) as error:
                missing = error
                continue
            found += [Address(record.address, self._port) for record in answer]
            ttl = min(ttl, float(answer.rrset.ttl))
        if not found:
            raise missing or LookupError
        return bounded(found), ttl
