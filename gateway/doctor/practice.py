"""The practices of resilient serving, and which of them a configuration has. Pure: looks at nothing but the values."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gateway.config import Config
from gateway.config.schema import PolicyConfig, RouteConfig
from gateway.config.units import format_duration
from gateway.doctor.findings import Finding, advice, ok, warning

_Practice = Callable[[Config], Iterator[Finding]]


def practices(config: Config) -> list[Finding]:
    """All of them, in the order of a request's way."""
    return [finding for practice in _PRACTICES for finding in practice(config)]


def _validation(config: Config) -> Iterator[Finding]:
    large = [name for name, policy in _used(config) if policy.limits.max_input_chars > 2_000_000]
    if large:
        what = f"policies.{large[0]}.limits lets {config.policies[large[0]].limits.max_input_chars} characters in"
        yield advice(what, "bound it by what the model can read: some 4 characters a token")
    else:
        yield ok("requests are validated, and bounded in size, tokens, pixels and steps (limits)")


def _timeouts(config: Config) -> Iterator[Finding]:
    for name, policy in _used(config):
        timeout = policy.timeout
        if timeout.first_token * 2 > timeout.total:
            first = format_duration(timeout.first_token)
            what = f"policies.{name}.timeout: first_token {first} leaves no time for a second try"
            yield warning(what, f"within total ({format_duration(timeout.total)}) give each try less than half")
            return
    yield ok("every wait has an end: connect, first_token, idle and total timeouts")


def _retries(config: Config) -> Iterator[Finding]:
    single = [name for name, policy in _used(config) if policy.retry.attempts == 1]
    greedy = [name for name, policy in _used(config) if policy.retry.budget.ratio > 0.5]
    if single:
        yield advice(f"policies.{single[0]}.retry.attempts is 1: nothing is tried again", "give it 2 or 3")
    elif greedy:
        yield warning(
            f"policies.{greedy[0]}.retry.budget.ratio is {config.policies[greedy[0]].retry.budget.ratio:g}",
            "above 0.5 retries can nearly double the load of an outage; 0.2 hides single failures",
        )
    else:
        yield ok("failures are tried again, with backoff, jitter and a budget")


def _fallbacks(config: Config) -> Iterator[Finding]:
    for route in config.routes:
        names = {target.backend for tier in route.tiers for target in tier}
        if len(names) == 1:
            yield advice(
                f"route {route.name!r} has one backend: when it is down, so is the model", "add a second or a fallback"
            )
        elif not route.fallback:
            yield advice(f"route {route.name!r} has no fallback tier", "add a smaller or a hosted model under fallback")
        else:
            yield ok(f"route {route.name!r} falls back over {len(route.tiers)} tiers")


def _breakers(config: Config) -> Iterator[Finding]:
    lax = [name for name, policy in _used(config) if policy.circuit_breaker.consecutive_failures > 50]
    if lax:
        yield advice(f"policies.{lax[0]}.circuit_breaker opens after more than 50 failures in a row", "5 is usual")
    else:
        yield ok("circuits open on failures in a row, on their share and on slowness")


def _health(config: Config) -> Iterator[Finding]:
    shallow = [
        name
        for name, backend in config.backends.items()
        if backend.health.probe == "http" and backend.kind in ("vllm", "sglang", "tgi", "llamacpp")
    ]
    if shallow:
        what = f"{', '.join(shallow[:5])}: probes ask the server only whether it is up"
        yield advice(what, "health: {probe: generate} also finds an engine that hangs behind it, for one token a probe")
    else:
        yield ok("active probes find servers that are down or hang")


def _overload(config: Config) -> Iterator[Finding]:
    endless = [name for name, policy in _used(config) if policy.admission.max_wait > policy.timeout.total / 2]
    if endless:
        yield warning(
            f"policies.{endless[0]}.admission.max_wait takes half of timeout.total",
            "who waits that long has no time left for an answer: shorten it",
        )
    else:
        yield ok("overload is met with a concurrency limit, a bounded queue and early refusal")


def _degradation(config: Config) -> Iterator[Finding]:
    if any("degrade" in policy.model_fields_set for _, policy in _used(config)):
        yield ok("under pressure requests are made smaller before they are refused (degrade)")
    else:
        yield advice(
            "no policy says when requests are made smaller (degrade)", "set its levels to what your users accept"
        )


def _streams(config: Config) -> Iterator[Finding]:
    off = [name for name, policy in _used(config) if not policy.stream.resume]
    if off:
        yield advice(f"policies.{off[0]}.stream.resume is off: a stream that breaks ends with an error", "turn it on")
    else:
        yield ok("a stream that breaks goes on elsewhere where it can, else says that it broke")


def _access(config: Config) -> Iterator[Finding]:
    server = config.server
    if not config.auth.keys and not server.on_loopback:
        yield warning("anyone who reaches the listener may use it", "set auth.keys, or listen on 127.0.0.1")
    else:
        yield ok("clients need a key, or are on this machine")
    if server.admin.key is None and not server.operators_on_loopback:
        yield advice("operators can look in from this machine only", "set server.admin.key to let others in")
    elif server.admin.key is None:
        yield advice("whoever is on this machine may drain and eject backends", "set server.admin.key")
    else:
        yield ok("operators' acts need a key")
    if server.tls is None and not server.on_loopback:
        yield advice("keys and prompts cross the network in clear", "set server.tls, or put a TLS proxy in front")


def _drain(config: Config) -> Iterator[Finding]:
    drain = config.server.drain
    if drain < 5:
        yield warning(f"server.drain is {format_duration(drain)}: a restart cuts what runs", "30s lets answers finish")
    else:
        yield ok(f"a restart lets what runs finish for {format_duration(drain)}")


def _watching(config: Config) -> Iterator[Finding]:
    if config.alerts.targets:
        yield ok("someone is told (alerts.targets)")
    else:
        yield advice(
            "alerts.targets is empty", "set it, or load deploy/prometheus/rules.yml and have Prometheus tell you"
        )
    if config.observability.log.prompts:
        yield warning("prompts and answers are logged", "turn observability.log.prompts off unless you must")
    if config.observability.otlp is None:
        yield advice("no traces are sent", "observability.otlp shows where each request's time went")


def _replicas(config: Config) -> Iterator[Finding]:
    if config.server.workers > 1 and config.state.redis is None:
        yield advice(
            f"{config.server.workers} workers each have breakers, limits and budgets of their own",
            "state.redis joins them where exact limits matter",
        )


def _faults(config: Config) -> Iterator[Finding]:
    on = [name for name, policy in _used(config) if policy.fault is not None]
    if on:
        yield warning(f"policies.{on[0]}.fault injects faults into real requests", "take it out after the game day")


def _used(config: Config) -> list[tuple[str, PolicyConfig]]:
    """The policies that routes have, by name."""
    names = dict.fromkeys(route.policy for route in config.routes)
    return [(name, config.policy_for(_first(config, name))) for name in names]


def _first(config: Config, policy: str) -> RouteConfig:
    return next(route for route in config.routes if route.policy == policy)


_PRACTICES: tuple[_Practice, ...] = (
    _validation,
    _access,
    _timeouts,
    _retries,
    _fallbacks,
    _breakers,
    _health,
    _overload,
    _degradation,
    _streams,
    _drain,
    _watching,
    _replicas,
    _faults,
)
