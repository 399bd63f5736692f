"""One backend address and everything known of it now."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from backends.dialect import Dialect
from backends.registry import dialect_for
from gateway.config.schema import BackendConfig, CircuitBreakerPolicy
from gateway.upstream.pool import Pool

if TYPE_CHECKING:
    from policies.breaker import CircuitBreaker

_ANTHROPIC_VERSION = b"2023-06-01"


class Endpoint:
    """State of one endpoint; survives a reload while its configuration stays the same.

    `in_flight` counts attempts. `away_until` (loop time) is how long it asked to be left alone. `healthy` is the active
    probes' view, true until they say otherwise.
    """

    __slots__ = (
        "away_until",
        "base_path",
        "breaker",
        "breaker_policy",
        "config",
        "dialect",
        "head_lines",
        "healthy",
        "in_flight",
        "kv_cache",
        "name",
        "pool",
        "state",
        "state_message",
        "waiting",
        "weight",
    )

    def __init__(
        self,
        name: str,
        config: BackendConfig,
        breaker_policy: CircuitBreakerPolicy,
        breaker: CircuitBreaker,
        connect_timeout: float,
    ) -> None:
        self.name = name
        self.config = config
        self.breaker_policy = breaker_policy
        self.breaker = breaker
        self.dialect: Dialect = dialect_for(config.kind)
        url = urlsplit(config.url)
        self.base_path = url.path.encode("latin-1")
        self.head_lines = _head_lines(url.netloc, config)
        self.pool = Pool(
            url.hostname or "",
            url.port or (443 if url.scheme == "https" else 80),
            limit=config.connections,
            connect_timeout=connect_timeout,
            tls=tls_context(config) if url.scheme == "https" else None,
            server_name=config.tls.server_name or url.hostname,
        )
        self.weight = float(config.weight)
        self.in_flight = 0
        self.away_until = 0.0
        self.healthy = True
        self.state = "unknown"
        self.state_message = ""
        self.waiting = 0.0
        self.kv_cache = 0.0

    @property
    def full(self) -> bool:
        """Whether it has as many attempts in flight as its `max_concurrency` allows."""
        limit = self.config.max_concurrency
        return limit is not None and self.in_flight >= limit

    def load(self, now: float) -> float:
        """Requests it has per unit of weight, those that wait inside it counted (its own gauge, when scraped)."""
        return (self.in_flight + self.waiting) / self.weight


def _head_lines(host: str, config: BackendConfig) -> bytes:
    """The header lines that every request to the endpoint carries."""
    lines: dict[str, str] = {"host": host.rpartition("@")[2], "accept-encoding": "identity"}
    if config.api_key is not None:
        secret = config.api_key.get_secret_value()
        if config.kind == "anthropic":
            lines["x-api-key"] = secret
            lines["anthropic-version"] = _ANTHROPIC_VERSION.decode()
        else:
            lines["authorization"] = f"Bearer {secret}"
    for name, value in config.headers.items():
        lines[name.lower()] = value.get_secret_value()
    return "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode("latin-1")


def tls_context(config: BackendConfig) -> ssl.SSLContext:
    """TLS towards an https backend. Raises OSError when a file cannot be read."""
    context = ssl.create_default_context(cafile=config.tls.ca)
    if not config.tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if config.tls.cert is not None:
        context.load_cert_chain(config.tls.cert, config.tls.key)
    return context
