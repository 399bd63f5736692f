"""Sections about the process itself: server, auth, alerts, observability, state."""

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from gateway.config.base import (
    AccessKey,
    Count,
    Flag,
    Integer,
    Listen,
    LogFormat,
    LogLevel,
    Name,
    Network,
    Secret,
    Section,
    Text,
    invalid,
    is_loopback,
    key_digest,
    or_empty,
    split_listen,
    split_url,
)
from gateway.config.units import Duration, PositiveDuration, Size


class AdminConfig(Section):
    """Who may see status, errors, recent requests and the admin page."""

    listen: Listen | None = Field(
        None,
        description="A listener of its own for the operators' endpoints. null: the data listener serves them.",
        examples=["127.0.0.1:9090"],
    )
    key: AccessKey | None = Field(
        None,
        description="The key operators present (`Authorization: Bearer`), plain or `sha256:<hex>`. "
        "Without one only peers on the loopback interface are let in.",
        examples=["${SEAWALL_ADMIN_KEY}"],
    )


class ServerTimeouts(Section):
    """How long a client may take over a connection."""

    header: PositiveDuration = Field(
        10.0, description="From a request's first byte to the end of its headers.", examples=["10s"]
    )
    body: PositiveDuration = Field(
        60.0,
        description="Longest silence while a request's body is arriving; after it, the body must have brought "
        "500 bytes a second.",
        examples=["1m"],
    )
    idle: PositiveDuration = Field(
        75.0, description="How long an idle keep-alive connection stays open.", examples=["75s"]
    )


class ServerTls(Section):
    """The certificate the listener presents."""

    cert: Text = Field(description="PEM file with the certificate chain.", examples=["/etc/seawall/tls.crt"])
    key: Text = Field(description="PEM file with the private key.", examples=["/etc/seawall/tls.key"])


class ServerConfig(Section):
    """The listener and the process."""

    listen: Listen = Field(
        "127.0.0.1:8080",
        description="Address and port, `host:port`; port 0 takes any free one.",
        examples=["0.0.0.0:8080"],
    )
    workers: Integer = Field(1, ge=1, le=256, description="Processes sharing the port.", examples=[4])
    max_body: Size = Field(
        20 * 2**20, gt=0, description="Largest request body; a larger one is answered 413.", examples=["20MiB"]
    )
    max_buffered: Size = Field(
        512 * 2**20,
        gt=0,
        description="Request bodies held in memory over all connections of a process; "
        "above it requests with a body are answered 503.",
        examples=["512MiB"],
    )
    max_header_size: Size = Field(
        32 * 2**10,
        ge=1024,
        le=2**20,
        description="Largest request line and headers together; larger is answered 431.",
        examples=["32KiB"],
    )
    max_connections: Count = Field(
        10000,
        description="Open client connections of a process. Above it those idle longest are closed, and new ones where "
        "all are busy. Fewer where the process may not open as many files.",
        examples=[10000],
    )
    drain: Duration = Field(
        30.0,
        description="On SIGTERM: stop accepting and finish what runs, for at most this long.",
        examples=["30s"],
    )
    drain_delay: Duration = Field(
        1.0,
        description="On SIGTERM: first fail `/readyz` and ask clients to close their connections for this long, "
        "before new and idle ones are refused. It is part of `drain`.",
        examples=["5s"],
    )
    watch: Flag = Field(
        True,
        description="Reload when the file changes. false: only on SIGHUP, or when an operator asks for it.",
        examples=[False],
    )
    trusted_proxies: tuple[Network, ...] = Field(
        (),
        description="Networks (CIDR) whose `X-Forwarded-*` headers are believed.",
        examples=[["10.0.0.0/8"]],
    )
    timeouts: Annotated[ServerTimeouts, BeforeValidator(or_empty)] = Field(
        default_factory=ServerTimeouts, description="Limits against slow and idle clients."
    )
    tls: ServerTls | None = Field(None, description="Serve HTTPS with this certificate. null: plain HTTP.")
    admin: Annotated[AdminConfig, BeforeValidator(or_empty)] = Field(
        default_factory=AdminConfig, description="The operators' endpoints."
    )

    @property
    def host(self) -> str:
        return split_listen(self.listen)[0]

    @property
    def port(self) -> int:
        return split_listen(self.listen)[1]

    @property
    def on_loopback(self) -> bool:
        """Whether the data listener can be reached from this machine only."""
        return is_loopback(self.host)

    @property
    def operators_on_loopback(self) -> bool:
        """Whether the operators' endpoints can be reached from this machine only."""
        return is_loopback(split_listen(self.admin.listen or self.listen)[0])

    @model_validator(mode="after")
    def _consistent(self) -> "ServerConfig":
        if self.max_buffered < self.max_body:
            raise invalid("must be at least max_body, or the largest body could never be read", key="max_buffered")
        if self.admin.listen == self.listen and self.port != 0:
            raise invalid("admin.listen is the same as listen", "write null to share the listener", key="admin")
        return self


class KeyConfig(Section):
    """One API key and what it may do."""

    name: Name = Field(description="Shown in logs and metrics instead of the key; unique.", examples=["team-a"])
    key: AccessKey = Field(
        description="The key itself, or `sha256:<hex>` of it; never logged.", examples=["${TEAM_A_KEY}"]
    )
    models: tuple[Text, ...] = Field(
        ("*",),
        min_length=1,
        description="Models the key may ask for: names or globs, as clients write them.",
        examples=[["llama*"]],
    )
    requests_per_minute: Count | None = Field(None, description="Request rate limit. null: none.", examples=[600])
    tokens_per_minute: Count | None = Field(
        None, description="Limit on prompt and completion tokens together. null: none.", examples=[200000]
    )
    concurrency: Count | None = Field(None, description="Requests in flight at a time. null: no limit.", examples=[32])
    priority: Integer = Field(
        5,
        ge=0,
        le=9,
        description="Priority of the key's requests where they don't say (`X-Priority`, 0 to 9), "
        "and the highest they may ask for.",
        examples=[5],
    )

    @property
    def digest(self) -> bytes:
        """SHA-256 of the key (32 bytes), to compare with a presented one in constant time."""
        return key_digest(self.key)


class AuthConfig(Section):
    """API keys."""

    keys: tuple[KeyConfig, ...] = Field((), description="Keys that clients may present. None: every client is let in.")


def _alert_target(value: SecretStr) -> SecretStr:
    if "://" not in value.get_secret_value():
        raise invalid("is not an apprise URL", "such as slack://..., pagerduty://... or mailto://...")
    return value


class AlertsConfig(Section):
    """Where alerts go."""

    targets: tuple[Annotated[Secret, AfterValidator(_alert_target)], ...] = Field(
        (), description="Apprise URLs; they hold tokens and are never shown.", examples=[["${SLACK_URL}"]]
    )


class LogConfig(Section):
    """Logs."""

    format: LogFormat = Field("auto", description="auto: console on a terminal, JSON elsewhere.", examples=["json"])
    level: LogLevel = Field("info", description="Least severe level written.", examples=["debug"])
    prompts: Flag = Field(False, description="Also log prompts and answers. Off for a reason.", examples=[False])


def _otlp(value: Any) -> Any:
    if isinstance(value, str):
        split_url(value, ("http", "https"), what="endpoint")
    return value


class ObservabilityConfig(Section):
    """Logs and traces. Metrics are always served at /metrics."""

    log: Annotated[LogConfig, BeforeValidator(or_empty)] = Field(
        default_factory=LogConfig, description="Log format, level and content."
    )
    otlp: Annotated[str | None, BeforeValidator(_otlp)] = Field(
        None, description="OTLP/HTTP endpoint for traces. null: none.", examples=["http://127.0.0.1:4318"]
    )


def _redis(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
        raise invalid("must be a redis://, rediss:// or unix:// URL")
    try:
        _ = urlsplit(value.get_secret_value()).port
    except ValueError:
        raise invalid("the URL is malformed", "such as redis://10.0.0.9:6379/0") from None
    return value


class StateConfig(Section):
    """State shared between replicas and workers."""

    redis: Annotated[Secret, AfterValidator(_redis)] | None = Field(
        None,
        description="Redis or Valkey URL holding breakers, limits and budgets. null: each process keeps its own.",
        examples=["redis://10.0.0.9:6379/0"],
    )
    namespace: Name = Field(
        "seawall",
        description="Begins every key in Redis: gateways that are to share nothing need different ones.",
        examples=["production"],
    )
