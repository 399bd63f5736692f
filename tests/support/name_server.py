"""A DNS server on UDP that tells the addresses it is given."""

from __future__ import annotations

import asyncio
from typing import Any, Self

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rrset


class NameServer(asyncio.DatagramProtocol):
    """Knows one name. `addresses` None: it fails (SERVFAIL); `ttl` in seconds."""

    def __init__(self, name: str, addresses: list[str] | None, ttl: int = 1) -> None:
        self.name = name
        self.addresses = addresses
        self.ttl = ttl
        self.asked = 0
        self._transport: Any = None

    def datagram_received(self, data: bytes, peer: Any) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        self.asked += 1
        if self.addresses is None:
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif question.name.to_text() != f"{self.name}.":
            answer.set_rcode(dns.rcode.NXDOMAIN)
        else:
            kind = question.rdtype.name
            fitting = [one for one in self.addresses if (":" in one) is (kind == "AAAA")]
            if fitting and kind in ("A", "AAAA"):
                answer.answer.append(dns.rrset.from_text(question.name, self.ttl, "IN", kind, *fitting))
        self._transport.sendto(answer.to_wire(), peer)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, ("127.0.0.1", 0))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._transport.close()

    def resolver(self) -> dns.asyncresolver.Resolver:
        """A client of this server alone."""
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = ["127.0.0.1"]
        resolver.port = self._transport.get_extra_info("sockname")[1]
        return resolver
