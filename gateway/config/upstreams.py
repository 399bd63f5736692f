"""Sections about where requests go: backends and routes."""

import re
from ipaddress import ip_address
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from gateway.config.base import (
    Count,
    Flag,
    Integer,
    Name,
    Number,
    Secret,
    Section,
    Text,
    invalid,
    or_empty,
    split_url,
)
from gateway.config.units import PositiveDuration

BackendKind = Literal[
    "vllm", "sglang", "llamacpp", "tgi", "ollama", "triton", "diffusers", "openai", "anthropic", "embedded"
]
KINDS: tuple[str, ...] = get_args(BackendKind)

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
#: Headers that frame the message or name its target; the gateway writes them itself.
_OWN_HEADERS = frozenset(
    {"connection", "content-length", "content-type", "expect", "host", "keep-alive", "te", "trailer"}
    | {"transfer-encoding", "upgrade"}
)


def _header_name(value: str) -> str:
    if not _HEADER_NAME.fullmatch(value):
        raise invalid("is not a header name")
    if value.lower() in _OWN_HEADERS:
        raise invalid("is a header that Seawall sets itself")
    return value


def _path(value: str) -> str:
    if not value.startswith("/") or " " in value or "#" in value:
        raise invalid("must be a path that starts with /", "such as /health")
    return value


def _backend_url(value: str) -> str:
    parts = split_url(value, ("http", "https"))
    path = parts.path.rstrip("/")
    # Clients' base URLs end in /v1 and the requests' own paths start with it.
    path = path.removesuffix("/v1").rstrip("/")
    if re.search(r"/\.{1,2}(/|$)|//", path):
        raise invalid("the url's path must be plain", "without //, . or .. in it")
    return f"{parts.scheme}://{parts.netloc}{path}"


class HealthConfig(Section):
    """Active health checks of one backend's endpoints."""

    path: Annotated[Text, AfterValidator(_path)] | None = Field(
        None, description="Path asked by `probe: http`. null: the usual one of its kind.", examples=["/health"]
    )
    interval: PositiveDuration = Field(5.0, description="Time between checks.", examples=["5s"])
    timeout: PositiveDuration = Field(
        5.0, description="A check without an answer for this long has failed.", examples=["5s"]
    )
    probe: Literal["http", "generate"] = Field(
        "http",
        description="http: ask the health path. generate: also have the model make one token, "
        "which finds an engine that hangs behind a healthy server.",
        examples=["generate"],
    )
    healthy_after: Integer = Field(
        2, ge=1, le=100, description="Good checks in a row before an endpoint gets traffic again.", examples=[2]
    )
    unhealthy_after: Integer = Field(
        3, ge=1, le=100, description="Failed checks in a row before an endpoint gets none.", examples=[3]
    )


class BackendTls(Section):
    """TLS towards an https backend."""

    verify: Flag = Field(True, description="Check the backend's certificate.", examples=[True])
    ca: Text | None = Field(
        None,
        description="PEM file with the authorities to trust. null: the system's.",
        examples=["/etc/ssl/internal-ca.pem"],
    )
    cert: Text | None = Field(
        None, description="PEM file with a client certificate, for mutual TLS.", examples=["client.pem"]
    )
    key: Text | None = Field(None, description="PEM file with the client certificate's key.", examples=["client.key"])
    server_name: Text | None = Field(
        None,
        description="Name expected in the certificate. null: the url's host.",
        examples=["llm.internal"],
    )

    @model_validator(mode="after")
    def _pair(self) -> "BackendTls":
        if self.key is not None and self.cert is None:
            raise invalid("key needs cert, the certificate it belongs to", key="key")
        return self


class BackendConfig(Section):
    """One model server, or several alike behind one name."""

    url: Annotated[
        str,
        AfterValidator(_backend_url),
        WithJsonSchema({"type": "string", "pattern": "^https?://[^@?#]+$"}),
    ] = Field(
        description="Base URL: http or https, a path prefix is kept; a trailing `/v1` may be written or left out.",
        examples=["http://10.0.0.5:8000"],
    )
    kind: BackendKind = Field(
        "openai",
        description="What speaks there; decides how its errors are read and what can be resumed. "
        "openai: any server with OpenAI's API.",
        examples=["vllm"],
    )
    model: Text | None = Field(
        None,
        description="The model name sent upstream. null: the one the client asked for.",
        examples=["qwen-0.5b"],
    )
    weight: Number = Field(1.0, gt=0, le=1000, description="Share of traffic within its tier.", examples=[2])
    max_concurrency: Count | None = Field(
        None,
        description="Requests in flight at most, for each endpoint. null: only the policy's limits.",
        examples=[64],
    )
    connections: Integer = Field(
        1024, ge=1, le=65535, description="Open connections at most, for each endpoint.", examples=[1024]
    )
    context_length: Count | None = Field(
        None,
        description="Tokens the model takes, prompt and answer together. null: asked of the backend where it says.",
        examples=[32768],
    )
    api_key: Secret | None = Field(
        None, description="Key sent to the backend; the client's own is never passed on.", examples=["${KEY}"]
    )
    forward_authorization: Flag = Field(
        False,
        description="Pass the client's own `Authorization` and `X-API-Key` on to this backend, which then decides who "
        "may ask. Only without `api_key` and without `auth.keys`.",
        examples=[True],
    )
    headers: dict[Annotated[str, AfterValidator(_header_name)], Secret] = Field(
        default_factory=dict,
        description="More headers sent to the backend; values are treated as secrets.",
        examples=[{"X-Team": "search"}],
    )
    tls: Annotated[BackendTls, BeforeValidator(or_empty)] = Field(
        default_factory=BackendTls, description="TLS settings for an https url."
    )
    health: Annotated[HealthConfig, BeforeValidator(or_empty)] = Field(
        default_factory=HealthConfig, description="Active health checks."
    )
    discover: Literal["dns", "kubernetes"] | None = Field(
        None,
        description="Finds many endpoints behind the url's host: by its DNS addresses or the Kubernetes API. "
        "null: the url is the endpoint.",
        examples=["dns"],
    )

    @model_validator(mode="after")
    def _one_credential(self) -> "BackendConfig":
        if self.forward_authorization and self.api_key is not None:
            raise invalid(
                "api_key and forward_authorization exclude each other",
                "keep one: whose key is the backend to see?",
                key="forward_authorization",
            )
        if self.discover is not None and _is_address(self.url):
            raise invalid("needs a host name in the url, not an address", key="discover")
        return self


def _is_address(url: str) -> bool:
    try:
        ip_address(urlsplit(url).hostname or "")
    except ValueError:
        return False
    return True


class Target(Section):
    """A backend in a route's tier, and the model name to send it if it is not the usual one."""

    backend: Name = Field(description="Name of a backend.", examples=["small"])
    model: Text | None = Field(
        None,
        description="Model name sent to it. null: the backend's own `model`, else the client's.",
        examples=["qwen-0.5b"],
    )


Tier = tuple[Target, ...]


def _target(value: Any) -> Any:
    return {"backend": value} if isinstance(value, str) else value


def _tier(value: Any) -> Any:
    """A name, a mapping or a list of either, as a list of targets."""
    if isinstance(value, tuple | list):
        return [_target(entry) for entry in value]
    return [_target(value)]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_TARGET_SCHEMA = {
    "anyOf": [
        {"type": "string", "description": "Name of a backend."},
        {
            "type": "object",
            "properties": {"backend": {"type": "string"}, "model": {"type": ["string", "null"]}},
            "required": ["backend"],
            "additionalProperties": False,
        },
    ]
}
FallbackTier = Annotated[
    Tier,
    BeforeValidator(_tier),
    Field(min_length=1),
    WithJsonSchema({"anyOf": [*_TARGET_SCHEMA["anyOf"], {"type": "array", "minItems": 1, "items": _TARGET_SCHEMA}]}),
]


def _not_blank(value: str) -> str:
    if not value.strip():
        raise invalid("must not be empty")
    return value


class StaticAnswer(Section):
    """A fixed text in place of an error when every backend failed; the answer says so."""

    text: Annotated[str, AfterValidator(_not_blank), Field(max_length=8192)] = Field(
        description="What the client reads. Given where any text is an answer: chats, completions, messages, responses "
        "and `/generate`, unless JSON or a tool call is asked for.",
        examples=["The assistant is unavailable. Please try again in a few minutes."],
    )


class RouteConfig(Section):
    """Which backends answer for a model."""

    name: Text = Field(
        "", description="Label in metrics and logs; unique. Left out: the first of `model`.", examples=["chat"]
    )
    model: Annotated[
        tuple[Text, ...],
        BeforeValidator(_as_list),
        Field(min_length=1),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "string"}}]}),
    ] = Field(
        description="Model names this route takes: exact, a glob (`*`, `?`, `[ab]`), or a list of them.",
        examples=["llama-3.1-8b"],
    )
    backends: tuple[Name, ...] = Field(
        min_length=1, description="Primary tier; requests are balanced over it.", examples=[["llama-a", "llama-b"]]
    )
    fallback: tuple[FallbackTier, ...] = Field(
        (),
        description="Further tiers, tried in order when one can't answer. An entry is a backend's name, "
        "a list of names, or `{backend: name, model: other-name}`.",
        examples=[["small"]],
    )
    static_answer: StaticAnswer | None = Field(
        None, description="The last fallback: a fixed text. null: an error is told.", examples=[{"text": "Try later."}]
    )
    policy: Name = Field("default", description="Name of the policy that governs it.", examples=["chat"])

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("name"):
            models = _as_list(data.get("model"))
            if isinstance(models, tuple | list) and models and isinstance(models[0], str):
                return {**data, "name": models[0]}
            # The model's own error is the one to report.
            return {**data, "name": "unnamed"}
        return data

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """All tiers in order, the primary one first."""
        return (tuple(Target(backend=name) for name in self.backends), *self.fallback)
