"""A snapshot built from one configuration: routes compiled, endpoints, policies. Swapped whole on a reload."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from time import monotonic
from types import MappingProxyType

from gateway.admission import WaitingRoom
from gateway.answer import safe
from gateway.config.schema import Config, KeyConfig, PolicyConfig, RouteConfig
from gateway.discovery.addresses import Address
from gateway.endpoint import Endpoint
from gateway.faults import FaultInjection
from gateway.identity import ApiKey, KeyRing, TrustedProxies
from gateway.key_limits import KeyLimits
from gateway.native import GENERATE_IMAGE
from gateway.routing import RouteTable
from gateway.stale import StaleAnswers
from gateway.validation.facts import Limits
from policies.admission import AdmissionSettings
from policies.balance import Balancer, make_balancer
from policies.breaker import CircuitBreaker
from policies.budget import BudgetSettings, RetryBudget
from policies.deadline import Timeouts
from policies.degrade import Degradation, DegradeSettings, LevelSettings
from policies.hedge import HedgePolicy, HedgeSettings
from policies.outlier import last_resort
from policies.plan import AttemptPlan
from policies.retry import Backoff, BackoffSettings
from policies.target import PlanRules

#: Of a tier with more than `MANY` endpoints of equal weight a first attempt looks at `FEW`, drawn at random: what a
#: request costs does not grow with the tier. Envoy's least request draws two; the more, the nearer to the least of all.
MANY = 16
FEW = 8
_IMAGE_KINDS = frozenset({"diffusers"})


class Candidate:
    """An endpoint in a route's tier, and the model name to send it (None: the client's own)."""

    __slots__ = ("_told", "burden", "endpoint", "fallback", "lines", "model")

    def __init__(self, endpoint: Endpoint, model: str | None, *, fallback: bool) -> None:
        self.endpoint = endpoint
        self.burden = endpoint.burden  # without a call in between: several are asked for each request
        self.model = model
        self.fallback = fallback
        self._told = ("", b"")  # the last name that a client asked by, and the lines that say it
        known = f"x-seawall-model: {safe(model)}\r\n" if model is not None else ""
        place = "true" if fallback else "false"
        self.lines = f"x-seawall-backend: {endpoint.name}\r\nx-seawall-fallback: {place}\r\n{known}".encode("ascii")

    @property
    def context_length(self) -> int | None:
        return self.endpoint.context_length

    @property
    def name(self) -> str:
        return self.endpoint.name

    @property
    def in_flight(self) -> int:
        return self.endpoint.in_flight

    @property
    def weight(self) -> float:
        return self.endpoint.weight

    @property
    def breaker(self) -> CircuitBreaker:
        return self.endpoint.breaker

    def load(self, now: float) -> float:
        return self.endpoint.load(now)

    def least(self, now: float) -> float:
        return self.endpoint.quickest.least(now)

    def busy(self, now: float) -> bool:
        return self.endpoint.busy(now)

    def usable(self, now: float) -> bool:
        return self.endpoint.usable(now)

    def away_until(self) -> float:
        return self.endpoint.away_until

    def doubtful(self) -> bool:
        return self.endpoint.vitality.doubtful

    def avoided(self) -> bool:
        return self.endpoint.strained or self.endpoint.vitality.doubtful

    def sound(self) -> bool:
        return self.endpoint.breaker.sound and not self.endpoint.vitality.doubtful

    def recovered_since(self, at: float, now: float) -> bool:
        return self.endpoint.recovered_since(at, now)

    def back_by(self, until: float, now: float) -> bool:
        return self.endpoint.back_by(until, now)

    def answered_since(self, at: float) -> bool:
        return self.endpoint.vitality.answered_since(at)

    def answer_lines(self, model: str) -> bytes:
        """What the answer's head says of where it comes from; `model` is the client's."""
        if self.model is not None:
            return self.lines
        if model != self._told[0]:
            self._told = model, self.lines + f"x-seawall-model: {safe(model)}\r\n".encode("ascii")
        return self._told[1]


class Route:
    """One compiled route."""

    __slots__ = (
        "_alike",
        "_backoff",
        "_heaviest",
        "_random",
        "_rules",
        "balance",
        "balancer",
        "budget",
        "degradation",
        "fault",
        "hedge",
        "limits",
        "name",
        "patterns",
        "policy",
        "resumes",
        "room",
        "stale",
        "static",
        "tiers",
        "timeout",
    )

    def __init__(
        self,
        config: RouteConfig,
        policy: PolicyConfig,
        endpoints: Mapping[str, Sequence[Endpoint]],
        previous: Route | None,
        rng: random.Random,
    ) -> None:
        self.name = config.name
        self.patterns: tuple[str, ...] = config.model
        self.policy = policy
        self.timeout = Timeouts(**policy.timeout.model_dump())
        self.limits = Limits(**policy.limits.model_dump())
        self.tiers: tuple[tuple[Candidate, ...], ...] = tuple(
            tuple(
                Candidate(endpoint, target.model or endpoint.config.model, fallback=index > 0)
                for target in tier
                for endpoint in endpoints[target.backend]
            )
            for index, tier in enumerate(config.tiers)
        )
        stream = policy.stream
        #: Whether a stream that breaks may go on elsewhere.
        self.resumes = stream.resume and stream.max_resumes > 0 and sum(map(len, self.tiers)) > 1
        self.balance = policy.balance
        self.balancer: Balancer = make_balancer(policy.balance)
        self._backoff = Backoff(BackoffSettings(**policy.retry.backoff.model_dump()))
        self._random = rng
        self.budget = RetryBudget(BudgetSettings(**policy.retry.budget.model_dump()))
        members = [candidate.endpoint for tier in self.tiers for candidate in tier]
        self._heaviest = max([float(endpoint.config.weight) for endpoint in members], default=1.0)
        self._alike = all(len({candidate.endpoint.config.weight for candidate in tier}) <= 1 for tier in self.tiers)
        admission = AdmissionSettings(**policy.admission.model_dump())
        self.room = WaitingRoom(admission, members)
        self.hedge = _hedge(policy)
        self.stale = StaleAnswers(policy.stale_if_error) if policy.stale_if_error.ttl > 0 else None
        self.static = config.static_answer.text if config.static_answer is not None else None
        self.degradation = _degradation(policy)
        self.fault = FaultInjection(policy.fault, rng) if policy.fault is not None else None
        if previous is not None:
            if previous.policy.retry.budget == policy.retry.budget:
                self.budget = previous.budget
            if previous.policy.hedge == policy.hedge:
                self.hedge = previous.hedge
            before = [candidate.endpoint for tier in previous.tiers for candidate in tier]
            if previous.policy.stale_if_error == policy.stale_if_error and before == members:
                self.stale = previous.stale
            if previous.policy.degrade == policy.degrade and previous.policy.degrades == policy.degrades:
                self.degradation = previous.degradation
            if previous.room.matches(admission, members):
                self.room = previous.room
        self._rules = self._plan_rules()

    def _plan_rules(self) -> PlanRules[Candidate]:
        policy = self.policy
        return PlanRules(
            self.tiers,
            max_attempts=policy.retry.attempts,
            max_resumes=policy.stream.max_resumes,
            on=frozenset(policy.retry.on),
            backoff=self._wait,
            withdraw=self.budget.try_withdraw,
            pick=self._pick,
            ejected=self._ejected,
            charge=self.budget.withdraw,
            glance=self._glance,
        )

    @property
    def draws_images(self) -> bool:
        """Whether its primary endpoints are image servers."""
        return any(candidate.endpoint.config.kind in _IMAGE_KINDS for candidate in self.tiers[0])

    def degradation_level(self) -> int:
        """How far its requests are made smaller now: 0 is not at all."""
        return self.degradation.level if self.degradation is not None else 0

    def plan(self, deadline: float, affinity: bytes | None) -> AttemptPlan[Candidate]:
        """A fresh plan for one request that must be done by `deadline` (loop time).

        Requests with the same `affinity` go to the same endpoint where the policy balances by it.
        """
        return AttemptPlan(self._rules, deadline, affinity)

    def retry_after(self, now: float) -> float | None:
        """Seconds until the first of its endpoints may be asked again, or None when nothing says."""
        waits = [c.endpoint.retry_after(now) for tier in self.tiers for c in tier]
        known = [wait for wait in waits if wait is not None]
        return min(known) if known else None

    def _ejected(self, tier: Sequence[Candidate], now: float) -> Sequence[Candidate]:
        """Those with an open circuit that may be tried. What active probes find down is neither tried nor counted, nor
        what could not be reached: of that, probes say when it is back."""
        alive = [candidate for candidate in tier if candidate.endpoint.reachable]
        return last_resort(alive, now, self.policy.circuit_breaker.max_ejected)

    def _wait(self, number: int) -> float:
        return self._backoff.delay(number, self._random.random)

    def _glance(self, tier: Sequence[Candidate], now: float) -> Candidate | None:
        """An endpoint with nothing against it for a first attempt, chosen by looking at few; None when it saw none."""
        count = len(tier)
        if count <= 1:
            return tier[0] if count and tier[0].burden(now) < inf else None
        few = FEW if self._alike and count > MANY else count
        return self.balancer.glance(tier, now, self._random, self._heaviest, few)

    def _pick(self, candidates: Sequence[Candidate], now: float, key: bytes | None) -> Candidate:
        return candidates[0] if len(candidates) == 1 else self.balancer.pick(candidates, now, self._random, key)


def _hedge(policy: PolicyConfig) -> HedgePolicy | None:
    settings = policy.hedge
    if settings.after is None:
        return None
    return HedgePolicy(HedgeSettings(settings.after, settings.max, settings.budget, settings.max_body, settings.images))


def _degradation(policy: PolicyConfig) -> Degradation | None:
    settings = policy.degrade
    if not policy.degrades:
        return None
    reduced = LevelSettings(settings.reduced.above, settings.reduced.quality)
    minimal = LevelSettings(settings.minimal.above, settings.minimal.quality)
    return Degradation(DegradeSettings(settings.signal, reduced, minimal))


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything that the request's way needs of one configuration."""

    config: Config
    routes: RouteTable[Route]
    endpoints: dict[str, Endpoint]
    keys: KeyRing
    key_limits: KeyLimits
    proxies: TrustedProxies
    created: int
    found: Mapping[str, Sequence[Address]]

    def keep_times(self) -> None:
        """Has endpoints that were there before go by this configuration's timeouts; called when it is served."""
        for name, endpoint in self.endpoints.items():
            endpoint.keep_to(_policy_of(self.config, name.partition("/")[0]).timeout)

    def default_route(self, path: str) -> Route | None:
        """The route of a request that names no model: the only one, or the first of its kind for native requests and
        images; else None."""
        routes = self.routes.routes
        if len(routes) == 1:
            return routes[0]
        if path.startswith(("/generate", "/v1/images/")):
            images = path == GENERATE_IMAGE or path.startswith("/v1/images/")
            return next((route for route in routes if route.draws_images is images), None)
        return None


def build(
    config: Config,
    previous: Runtime | None,
    rng: random.Random,
    found: Mapping[str, Sequence[Address]] = MappingProxyType({}),
) -> Runtime:
    """Compiles a configuration. What stays as it was keeps its state: endpoints, and routes' budgets and queues.

    `found` are the addresses of those backends that are discovered; each is an endpoint `backend/address`.
    """
    endpoints: dict[str, Endpoint] = {}
    members: dict[str, list[Endpoint]] = {}
    for backend in config.backends:
        addresses: dict[str, Address | None] = {backend: None} if config.backends[backend].discover is None else {}
        addresses |= {f"{backend}/{address}": address for address in found.get(backend, ())}
        members[backend] = []
        for name, address in addresses.items():
            endpoints[name] = _endpoint(config, backend, name, address, previous, rng)
            members[backend].append(endpoints[name])
    before = {route.name: route for route in previous.routes.routes} if previous is not None else {}
    routes = [Route(route, config.policy_for(route), members, before.get(route.name), rng) for route in config.routes]
    keys = [(key.digest, _api_key(key)) for key in config.auth.keys]
    limits = KeyLimits([key for _, key in keys], previous.key_limits if previous is not None else None)
    proxies = TrustedProxies(config.server.trusted_proxies)
    return Runtime(config, RouteTable(routes), endpoints, KeyRing(keys), limits, proxies, int(time.time()), found)


def _endpoint(
    config: Config, backend: str, name: str, address: Address | None, previous: Runtime | None, rng: random.Random
) -> Endpoint:
    """The endpoint there was, if it is to be the same; else a new one."""
    settings, policy = config.backends[backend], _policy_of(config, backend)
    kept = previous.endpoints.get(name) if previous is not None else None
    if (
        kept is not None
        and kept.config == settings
        and kept.breaker_policy == policy.circuit_breaker
        and kept.concurrency_policy == policy.concurrency
    ):
        return kept
    endpoint = Endpoint(name, settings, policy, rng, address)
    if kept is not None:
        endpoint.take_over(kept, monotonic())
    return endpoint


def _policy_of(config: Config, backend: str) -> PolicyConfig:
    """The policy whose breaker, concurrency and timeouts an endpoint gets: that of the first route which uses it."""
    for route in config.routes:
        if any(target.backend == backend for tier in route.tiers for target in tier):
            return config.policy_for(route)
    return config.policies["default"]


def _api_key(key: KeyConfig) -> ApiKey:
    return ApiKey(
        name=key.name,
        models=tuple(key.models),
        priority=key.priority,
        requests_per_minute=key.requests_per_minute,
        tokens_per_minute=key.tokens_per_minute,
        concurrency=key.concurrency,
    )
