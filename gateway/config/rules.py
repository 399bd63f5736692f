"""What must hold across sections of gateway.yaml: references, reachability, settings that make sense together."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from gateway.config.inherit import BUILT_IN, DEFAULT, lineage
from gateway.config.problems import Severity, closest
from gateway.config.schema import BackendTls, Config, PolicyConfig, RouteConfig
from gateway.config.tree import Path
from gateway.config.units import format_duration

#: Kinds that serve only text, or only images. The others may be either.
TEXT_KINDS = frozenset({"vllm", "sglang", "llamacpp", "tgi", "ollama", "anthropic", "embedded"})
IMAGE_KINDS = frozenset({"diffusers"})
_WILDCARD = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem at a path of the configuration, not yet at a line.

    `if_written`: says something only about what the file itself holds at that path, not about defaults.
    """

    path: Path
    message: str
    hint: str = ""
    severity: Severity = "error"
    if_written: bool = False


def _warning(path: Path, message: str, hint: str = "") -> Finding:
    return Finding(path, message, hint, "warning")


def check_references(raw: Mapping[str, Any]) -> list[Finding]:
    """Names that stand for nothing. Works on plain data of any shape, so that no other error hides these."""
    return [*_unknown_in_routes(raw), *_faulty_inheritance(raw)]


def check_semantics(config: Config) -> list[Finding]:
    """Everything else that goes across settings, errors and warnings. Unknown names are passed over here."""
    return [
        *_duplicates(config),
        *_exposure(config),
        *_credentials(config),
        *_unused(config),
        *(finding for number, route in enumerate(config.routes) for finding in _tiers(config, number, route)),
        *_unreachable(config),
        *(finding for name, policy in config.policies.items() for finding in _policy(name, policy)),
        *_without_effect(config),
    ]


def _unknown_in_routes(raw: Mapping[str, Any]) -> Iterator[Finding]:
    routes, backends, policies = raw.get("routes"), raw.get("backends"), raw.get("policies")
    for number, route in enumerate(routes if isinstance(routes, list) else []):
        if not isinstance(route, dict):
            continue
        at: Path = ("routes", number)
        if isinstance(backends, dict):
            for path, name in (*_names(route.get("backends"), "backends"), *_names(route.get("fallback"), "fallback")):
                if name not in backends:
                    yield Finding((*at, *path), f"there is no backend {name!r}", closest(name, backends))
        policy = route.get("policy")
        known = {*BUILT_IN, *policies} if isinstance(policies, dict) else set(BUILT_IN)
        if isinstance(policy, str) and policy not in known:
            yield Finding((*at, "policy"), f"there is no policy {policy!r}", closest(policy, known))


def _names(value: Any, *path: str | int) -> Iterator[tuple[Path, str]]:
    """Every backend's name in a tier list, with its path; other shapes are the schema's to refuse."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, list) and len(path) <= 2:
        for number, entry in enumerate(value):
            yield from _names(entry, *path, number)
    elif isinstance(value, dict):
        yield from _names(value.get("backend"), *path, "backend")


def _faulty_inheritance(raw: Mapping[str, Any]) -> Iterator[Finding]:
    policies = raw.get("policies")
    if not isinstance(policies, dict):
        return
    told: set[str] = set()
    for name in policies:
        chain, fault = lineage(name, policies)
        if fault and told.isdisjoint(chain):
            written = policies[chain[-1]]["extends"]
            hint = "" if written in policies else closest(written, {*BUILT_IN, *policies})
            yield Finding(("policies", chain[-1], "extends"), fault, hint)
            told.update(chain)


def _duplicates(config: Config) -> Iterator[Finding]:
    names: set[str] = set()
    digests: dict[bytes, str] = {}
    for number, key in enumerate(config.auth.keys):
        if key.name in names:
            yield Finding(("auth", "keys", number, "name"), f"the name {key.name!r} is taken by an earlier key")
        elif key.digest in digests:
            yield Finding(("auth", "keys", number, "key"), f"the key {digests[key.digest]!r} is the same")
        names.add(key.name)
        digests.setdefault(key.digest, key.name)
    routes: set[str] = set()
    for number, route in enumerate(config.routes):
        if route.name in routes:
            hint = "give this one a name: of its own"
            yield Finding(("routes", number, "name"), f"the name {route.name!r} is taken by an earlier route", hint)
        routes.add(route.name)


def _exposure(config: Config) -> Iterator[Finding]:
    server = config.server
    if not config.auth.keys and not server.on_loopback:
        message = f"no API keys: whoever reaches {server.listen} may use every model"
        yield _warning(("server", "listen"), message, "list keys in auth.keys, or listen on 127.0.0.1")
    if server.admin.key is None and not server.operators_on_loopback:
        message = "no admin key: status, errors and the admin page will answer peers on the loopback interface only"
        at: Path = ("server", "admin", "listen") if server.admin.listen else ("server", "listen")
        yield _warning(at, message, "set server.admin.key")
    limited = any(
        limit is not None
        for key in config.auth.keys
        for limit in (key.requests_per_minute, key.tokens_per_minute, key.concurrency)
    )
    if limited and server.workers > 1 and config.state.redis is None:
        message = f"each worker counts keys' limits by itself, so {server.workers} times as much is let in"
        yield _warning(("server", "workers"), message, "set state.redis to share the counts")


def _credentials(config: Config) -> Iterator[Finding]:
    for name, backend in config.backends.items():
        if backend.forward_authorization and config.auth.keys:
            message = "would send the keys of auth.keys, which clients present to Seawall, to the backend"
            hint = "use api_key for the backend, or leave auth.keys out"
            yield Finding(("backends", name, "forward_authorization"), message, hint)


def _unused(config: Config) -> Iterator[Finding]:
    used = {target.backend for route in config.routes for tier in route.tiers for target in tier}
    for name in config.backends:
        if name not in used:
            yield _warning(("backends", name), "no route uses this backend")
    governed = {route.policy for route in config.routes} | {policy.extends for policy in config.policies.values()}
    for name in config.policies:
        if name not in governed and name != DEFAULT:
            yield Finding(("policies", name), "no route uses this policy", severity="warning", if_written=True)


def _tiers(config: Config, number: int, route: RouteConfig) -> Iterator[Finding]:
    """Tiers of one route: no endpoint twice, one sort of model, and room for what the primary takes."""
    primary = [config.backends[name] for name in route.backends if name in config.backends]
    lengths = [backend.context_length for backend in primary if backend.context_length]
    made = ""
    seen: set[tuple[str, str | None]] = set()
    for depth, tier in enumerate(route.tiers):
        for place, target in enumerate(tier):
            at: Path = ("routes", number, "backends", place)
            if depth:
                at = ("routes", number, "fallback", depth - 1, place)
            backend = config.backends.get(target.backend)
            if backend is None:
                continue
            model = target.model or backend.model
            if (target.backend, model) in seen:
                yield Finding(at, f"{target.backend} is in this route already, with the same model")
            seen.add((target.backend, model))
            makes = _makes(backend.kind)
            made = made or makes
            if makes and makes != made:
                message = f"{target.backend} ({backend.kind}) makes {makes}, where the route's others make {made}"
                yield Finding(at, message)
            if depth and backend.context_length and lengths and backend.context_length < max(lengths):
                message = (
                    f"{target.backend} takes {backend.context_length} tokens where the primary tier takes "
                    f"{max(lengths)}: longer requests have no fallback here"
                )
                yield _warning(at, message)
    if route.static_answer is not None and made == "images":
        yield Finding(("routes", number, "static_answer"), "is a text, and this route makes images", "leave it out")


def _makes(kind: str) -> str:
    """What a kind of backend gives, where that is sure."""
    return "text" if kind in TEXT_KINDS else "images" if kind in IMAGE_KINDS else ""


def _unreachable(config: Config) -> Iterator[Finding]:
    exact: dict[str, int] = {}  # pattern to the first route that has it
    globs: dict[str, int] = {}
    for number, route in enumerate(config.routes):
        for place, pattern in enumerate(route.model):
            covering = pattern if pattern in exact else next((glob for glob in globs if covers(glob, pattern)), None)
            if covering is not None:
                other = exact.get(covering, globs.get(covering, number))
                whole = "this route is" if len(route.model) == 1 else f"{pattern!r} is"
                name = "the same route" if other == number else f"route {config.routes[other].name!r}"
                message = f"{whole} never reached: {name} takes {covering!r} first"
                yield _warning(("routes", number, "model", place), message, "put the narrower one first")
            (globs if _WILDCARD.intersection(pattern) else exact).setdefault(pattern, number)


def covers(wide: str, narrow: str) -> bool:
    """Whether one model pattern surely matches whatever another does. Says no where it can't tell."""
    if wide in ("*", narrow):
        return True
    if not _WILDCARD.intersection(narrow):
        return fnmatchcase(narrow, wide)
    # A `*` swallows the other's wildcards whole; `?` and `[` on either side would need real inclusion of languages.
    return "?" not in wide and "[" not in wide + narrow and fnmatchcase(narrow, wide)


_BEFORE_FIRST_TOKEN = {("hedge", "after"), ("circuit_breaker", "slow_call", "over")}


def _policy(name: str, policy: PolicyConfig) -> Iterator[Finding]:
    """Times of a policy that can never come, because its deadline comes first."""
    total = policy.timeout.total
    slow = policy.circuit_breaker.slow_call
    times: list[tuple[tuple[str, ...], float]] = [
        (("timeout", "connect"), policy.timeout.connect),
        (("timeout", "first_token"), policy.timeout.first_token),
        (("timeout", "idle"), policy.timeout.idle),
        (("retry", "backoff", "max"), policy.retry.backoff.max),
        (("admission", "max_wait"), policy.admission.max_wait),
        (("hedge", "after"), policy.hedge.after if isinstance(policy.hedge.after, float) else 0.0),
        (("stream", "keepalive"), policy.stream.keepalive),
        (("circuit_breaker", "slow_call", "over"), slow.over if slow else 0.0),
    ]
    first_token = policy.timeout.first_token
    for path, seconds in times:
        if seconds > total:
            ender, end = "timeout.total ends the request", total
        elif path in _BEFORE_FIRST_TOKEN and seconds > first_token:
            ender, end = "timeout.first_token ends the attempt", first_token
        else:
            continue
        message = f"{format_duration(seconds)} never passes: {ender} after {format_duration(end)}"
        yield Finding(("policies", name, *path), message, severity="warning", if_written=True)
    if policy.fault is not None:
        message = "faults are injected on purpose into the requests of this policy"
        yield _warning(("policies", name, "fault"), message, "null turns it off")


def _without_effect(config: Config) -> Iterator[Finding]:
    for name, backend in config.backends.items():
        if backend.url.startswith("http://") and backend.tls != BackendTls():
            yield _warning(("backends", name, "tls"), "has no effect: the url is http", "write https:// in the url")
        if backend.api_key and any(header.lower() == "authorization" for header in backend.headers):
            yield _warning(("backends", name, "headers"), "Authorization here replaces the one from api_key")
