"""The whole of gateway.yaml as frozen pydantic models, attributes named as the YAML keys.

Durations are float seconds, sizes int bytes, secrets `SecretStr`. All defaults of Seawall live here. Build a
`Config` with `gateway.config.loader`: it also checks what goes across sections and knows lines and columns.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from gateway.config.base import Name, Section, invalid, or_empty
from gateway.config.inherit import resolve
from gateway.config.policy import (
    AdaptiveConcurrency,
    AdmissionPolicy,
    BackoffPolicy,
    BudgetPolicy,
    CircuitBreakerPolicy,
    DegradeLevel,
    DegradePolicy,
    FaultPolicy,
    FixedConcurrency,
    HedgePolicy,
    LimitsPolicy,
    MinimalLevel,
    OomPolicy,
    PolicyConfig,
    RetryPolicy,
    SlowCallPolicy,
    StaleIfErrorPolicy,
    StreamPolicy,
    TimeoutPolicy,
)
from gateway.config.server import (
    AdminConfig,
    AlertsConfig,
    AuthConfig,
    KeyConfig,
    LogConfig,
    ObservabilityConfig,
    ServerConfig,
    ServerTimeouts,
    ServerTls,
    StateConfig,
)
from gateway.config.upstreams import (
    KINDS,
    BackendConfig,
    BackendKind,
    BackendTls,
    HealthConfig,
    RouteConfig,
    Target,
    Tier,
)

__all__ = [
    "KINDS",
    "AdaptiveConcurrency",
    "AdminConfig",
    "AdmissionPolicy",
    "AlertsConfig",
    "AuthConfig",
    "BackendConfig",
    "BackendKind",
    "BackendTls",
    "BackoffPolicy",
    "BudgetPolicy",
    "CircuitBreakerPolicy",
    "Config",
    "DegradeLevel",
    "DegradePolicy",
    "FaultPolicy",
    "FixedConcurrency",
    "HealthConfig",
    "HedgePolicy",
    "KeyConfig",
    "LimitsPolicy",
    "LogConfig",
    "MinimalLevel",
    "ObservabilityConfig",
    "OomPolicy",
    "PolicyConfig",
    "RetryPolicy",
    "RouteConfig",
    "ServerConfig",
    "ServerTimeouts",
    "ServerTls",
    "SlowCallPolicy",
    "StaleIfErrorPolicy",
    "StateConfig",
    "StreamPolicy",
    "Target",
    "Tier",
    "TimeoutPolicy",
]


class Config(Section):
    """The configuration of a Seawall gateway."""

    server: Annotated[ServerConfig, BeforeValidator(or_empty)] = Field(
        default_factory=ServerConfig, description="The listener and the process."
    )
    auth: Annotated[AuthConfig, BeforeValidator(or_empty)] = Field(default_factory=AuthConfig, description="API keys.")
    backends: dict[Name, BackendConfig] = Field(min_length=1, description="Model servers by name; at least one.")
    routes: tuple[RouteConfig, ...] = Field(
        min_length=1, description="Which backends answer for which models; the first match wins."
    )
    policies: Annotated[dict[Name, PolicyConfig], BeforeValidator(or_empty)] = Field(
        default_factory=dict,
        description="Policies by name. `default` and `images` always exist; writing `default` changes what all "
        "others build on.",
    )
    alerts: Annotated[AlertsConfig, BeforeValidator(or_empty)] = Field(
        default_factory=AlertsConfig, description="Alerts."
    )
    observability: Annotated[ObservabilityConfig, BeforeValidator(or_empty)] = Field(
        default_factory=ObservabilityConfig, description="Logs and traces."
    )
    state: Annotated[StateConfig, BeforeValidator(or_empty)] = Field(
        default_factory=StateConfig, description="State shared between replicas."
    )

    @model_validator(mode="before")
    @classmethod
    def _resolve_policies(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        policies = data.get("policies")
        if policies is None or isinstance(policies, dict):
            try:
                return {**data, "policies": resolve(policies or {})}
            except ValueError as error:
                raise invalid(str(error), key="policies") from None
        return data

    def policy_for(self, route: RouteConfig) -> PolicyConfig:
        """The complete policy that governs a route."""
        return self.policies[route.policy]
