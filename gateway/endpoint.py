"""One backend address and everything known of it now."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from math import inf
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from backends.dialect import Dialect
from backends.forwarded import ForwardedCredentials
from backends.registry import dialect_for
from gateway.config.policy import AdaptiveConcurrency, FixedConcurrency
from gateway.config.schema import BackendConfig, CircuitBreakerPolicy, PolicyConfig, TimeoutPolicy
from gateway.discovery.addresses import Address
from gateway.health.prober import ProbeResult, ProbeState, ProbeTarget
from gateway.observe.metrics import EndpointMetrics
from gateway.tls import backend_files
from gateway.upstream.pool import Pool
from gateway.upstream.request import passed_on
from policies.breaker import BreakerSettings, CircuitBreaker, Permit, SlowCallSettings, State, Verdict
from policies.concurrency import ConcurrencyLimit, FixedLimit, GradientLimit
from policies.deadline import Quickest
from policies.outcome import Blame, ErrorKind, Failure
from policies.outlier import slow_start
from policies.progress import ProgressWatch
from policies.vitality import Vitality

#: Seconds that a busy endpoint is left alone when it did not say for how long, and at most.
DEFAULT_PAUSE = 1.0
MAX_PAUSE = 60.0
#: Failures that say that it was given too much.
_OVERLOADED = frozenset({ErrorKind.MODEL_OVERLOADED, ErrorKind.OUT_OF_MEMORY})
#: Seconds in which an endpoint whose circuit has closed comes back to its full weight, and the share it begins with.
SLOW_START = 10.0
_FIRST_SHARE = 0.1
#: The state of an endpoint that answers checks while its engine stands still.
STALLED = "stalled"
#: Seconds that a token counter may stand still while requests run, at least; else as long as a first token may take.
_LEAST_PROGRESS = 10.0
_SUCCESS = Verdict.SUCCESS
_ANTHROPIC_VERSION = "2023-06-01"


class Service(StrEnum):
    """What an operator has said of an endpoint."""

    ACTIVE = "active"
    DRAINING = "draining"  # nothing new; what runs there finishes
    EJECTED = "ejected"  # nothing new, and what ran there was broken off


class Endpoint:
    """State of one endpoint; survives a reload while its configuration stays the same.

    `in_flight` counts attempts, those that wait out a pause before they start among them; `limiter` says how many there
    may be. `weight` is its present share of traffic. `away_until` (loop time) is how long it asked to be left alone.
    `healthy` is the active probes' view, true until they say otherwise, `service` the operators'; `in_service` is both.
    `waiting`, `kv_cache` and `gpu_memory` (0 to 1) are its own gauges, when scraped, and so is `strained`: a GPU of its
    is nearly out of memory or broken, and others are asked first. `waiting_rooms` hear when an attempt is over,
    `on_missed` when it could not be reached. `context_length` is in tokens, as configured or as the server says; None
    when neither does. `transitions` are the latest changes of its circuit: loop time and the state that it came to.
    """

    __slots__ = (
        "_most",
        "_returning",
        "away_until",
        "base_path",
        "breaker",
        "breaker_policy",
        "concurrency_policy",
        "config",
        "context_length",
        "dialect",
        "gpu_memory",
        "head_lines",
        "healthy",
        "in_flight",
        "in_service",
        "kv_cache",
        "last_lines",
        "limiter",
        "message",
        "name",
        "on_missed",
        "on_transition",
        "own_headers",
        "particular",
        "pool",
        "probe_target",
        "progress",
        "quickest",
        "service",
        "state",
        "strained",
        "tls",
        "transitions",
        "vitality",
        "waiting",
        "waiting_rooms",
        "weight",
    )

    def __init__(
        self,
        name: str,
        config: BackendConfig,
        policy: PolicyConfig,
        rng: random.Random,
        address: Address | None = None,
    ) -> None:
        """`address` is where it listens if that was discovered; the url then still says its host's name and path."""
        self.name = name
        self.config = config
        self.breaker_policy = policy.circuit_breaker
        self.on_transition: Callable[[State], None] = lambda state: None
        self.on_missed: Callable[[str], None] = lambda name: None
        self.vitality = Vitality()
        self.quickest = Quickest()
        self.progress = ProgressWatch(max(policy.timeout.first_token, _LEAST_PROGRESS))
        self.context_length = config.context_length
        self.breaker = CircuitBreaker(_settings(policy.circuit_breaker), rng.random, on_change=self._changed)
        dialect = dialect_for(config.kind)
        self.dialect: Dialect = ForwardedCredentials(dialect) if config.forward_authorization else dialect
        url = urlsplit(config.url)
        self.base_path = url.path.encode("latin-1")
        self.head_lines = _head_lines(url.netloc, config)
        self.own_headers = frozenset(name.lower().encode("ascii") for name in config.headers)
        #: Whether it gets other headers of the client than every endpoint does.
        self.particular = bool(self.own_headers) or config.forward_authorization
        self.tls = backend_files(config.tls) if url.scheme == "https" else None
        tls = None if self.tls is None else self.tls.context
        self.probe_target = ProbeTarget(
            name,
            config.url if address is None else f"{url.scheme}://{address}{url.path}",
            config.health,
            self.dialect,
            credentials(config) if address is None else {"host": url.netloc, **credentials(config)},
            config.model,
            tls,
            config.tls.server_name if address is None else config.tls.server_name or url.hostname,
            learn=config.context_length is None,
        )
        self.pool = Pool(
            address.host if address is not None else url.hostname or "",
            address.port if address is not None else url.port or (443 if url.scheme == "https" else 80),
            limit=config.connections,
            connect_timeout=policy.timeout.connect,
            tls=tls,
            server_name=config.tls.server_name or url.hostname,
        )
        self.weight = float(config.weight)
        self._returning = False
        self.transitions: deque[tuple[float, str]] = deque(maxlen=8)
        self.in_flight = 0
        self.concurrency_policy = policy.concurrency
        self.limiter: ConcurrencyLimit = _limiter(policy.concurrency)
        self._most = min(config.max_concurrency or config.connections, config.connections)
        self.waiting_rooms: dict[object, Callable[[float], None]] = {}
        self.away_until = 0.0
        self.healthy = self.in_service = True
        self.service = Service.ACTIVE
        self.state = "unknown"
        self.message = ""
        self.last_lines: tuple[str, ...] = ()
        self.waiting = 0.0
        self.kv_cache = 0.0
        self.gpu_memory: float | None = None
        self.strained = False

    # -- choosing ------------------------------------------------------------------------------------------------------

    def usable(self, now: float) -> bool:
        """Whether it may be asked now: healthy, below its limits, its circuit not open."""
        if self._returning:
            self._return(now)
        in_flight = self.in_flight
        return (
            self.in_service and in_flight < self.limiter.limit and in_flight < self._most and self.breaker.allows(now)
        )

    def busy(self, now: float) -> bool:
        """Whether it may be asked now but for being at its limit."""
        return self.in_flight >= self.limit and self.in_service and self.breaker.allows(now)

    @property
    def limit(self) -> int:
        """Attempts that may be under way at a time."""
        return min(self.limiter.limit, self._most)

    def slots(self, now: float) -> int:
        """How many more attempts it may be given, if it may be asked at all; one at a time until its circuit closes."""
        if now < self.away_until:
            return 0
        free = max(0, self.limit - self.in_flight)
        return free if self.breaker.state(now) is State.CLOSED else min(1, free)

    def up(self, now: float) -> bool:
        """Whether requests can count on it now, or one may find out; checks find out about one that is not there."""
        return self.reachable and self.breaker.allows(now)

    @property
    def reachable(self) -> bool:
        """Whether it is there as far as is known, whatever its circuit says."""
        return self.in_service and not self.vitality.doubtful

    def recovered_since(self, at: float, now: float) -> bool:
        """Whether there is reason to ask it again after a failure at that time: heard of since, or due for a probe.

        One that could not be reached has to be heard of: until it answers a check, its circuit's time says nothing.
        """
        if self.vitality.doubtful:
            return False
        return self.vitality.back_since(at) or self.breaker.state(now) is State.HALF_OPEN

    def back_by(self, until: float, now: float) -> bool:
        """Whether its circuit, which lets nothing through now, is to let something through by then: it is on probation,
        or its open time is over."""
        breaker = self.breaker
        if not self.in_service or breaker.allows(now):
            return False
        wait = breaker.retry_after(now)
        return breaker.state(now) is State.HALF_OPEN or (wait is not None and now + wait <= until)

    def load(self, now: float) -> float:
        """Requests it has per unit of weight, those that wait inside it counted; its KV cache decides between equals.

        The cache tells of other gateways' requests too. It counts for one at most: what is scraped is seconds old.
        """
        return (self.in_flight + self.waiting + self.kv_cache) / self.weight

    def burden(self, now: float) -> float:
        """Its `load` where nothing else speaks against it, infinity where something does.

        One question instead of several, and nothing called that need not be: up to sixteen are asked for one request.
        """
        in_flight = self.in_flight
        if (
            self.in_service
            and in_flight < self.limiter.limit
            and in_flight < self._most
            and self.away_until <= now
            and not self.strained
            and not self.vitality.doubtful
            and (self.breaker.closed or self.breaker.allows(now))
        ):
            if self._returning:
                self._return(now)
            return (in_flight + self.waiting + self.kv_cache) / self.weight
        return inf

    def retry_after(self, now: float) -> float | None:
        """Seconds until it may be asked again; None when nothing says."""
        wait = max(self.away_until - now, self.breaker.retry_after(now) or 0.0)
        return wait if wait > 0.0 else None

    # -- attempts ------------------------------------------------------------------------------------------------------

    def begin(self, now: float, *, early: bool = False) -> Permit | None:
        """An attempt starts; an `early` one although the circuit is open."""
        self.in_flight += 1
        return self.breaker.acquire_early(now) if early else self.breaker.acquire(now)

    def answered(self, seconds: float, now: float, tokens: int | None) -> None:
        """A first token came after `seconds`, or a whole answer of so many `tokens` (None where nothing says)."""
        self.vitality.answered(now)
        self.quickest.observe(seconds, now)
        self.limiter.observe(seconds, self.in_flight, now, tokens)

    def end(
        self, permit: Permit | None, failure: Failure | None, seconds: float, now: float, *, streamed: bool = False
    ) -> None:
        """An attempt is over; `seconds` to its first token or whole answer, `streamed` when a stream had begun."""
        if failure is not None:
            if failure.kind in _OVERLOADED:
                self.limiter.overloaded(now)
            if failure.kind is ErrorKind.BACKEND_UNREACHABLE and failure.blame is Blame.ENDPOINT:
                self.vitality.missed(now)
                self.on_missed(self.name)
            if failure.blame is Blame.SOFT:
                pause = failure.retry_after if failure.retry_after is not None else DEFAULT_PAUSE
                self.away_until = now + min(pause, MAX_PAUSE)
        verdict = _SUCCESS
        if failure is not None:
            verdict = Verdict.FAILURE if failure.blame is Blame.ENDPOINT else Verdict.NEUTRAL
        if permit is not None:
            self.breaker.record(permit, verdict, seconds, now, streamed=streamed)
        self.release(now)

    def on_trial(self, permit: Permit | None) -> bool:
        """Whether an attempt is one by which its circuit finds out."""
        return permit is not None and self.breaker.awaits(permit)

    def pass_trial(self, permit: Permit | None, seconds: float, now: float) -> None:
        """What its circuit wanted to know of a stream is known, though it goes on; `seconds` to its first token."""
        if permit is not None:
            self.breaker.record(permit, Verdict.SUCCESS, seconds, now, streamed=True)

    def hold(self) -> None:
        """Takes a slot for an attempt that is to start later; give it back with `release`."""
        self.in_flight += 1

    def release(self, now: float) -> None:
        """Gives a slot back."""
        self.in_flight -= 1
        if self.waiting_rooms:
            for room, freed in list(self.waiting_rooms.items()):
                freed(now)
                if room in self.waiting_rooms:  # another one is asked first the next time
                    self.waiting_rooms[room] = self.waiting_rooms.pop(room)
                    break

    def passed_on(self, headers: dict[bytes, bytes]) -> bytes:
        """The lines of the client's headers that this endpoint gets, where it is `particular`."""
        return passed_on(headers, own=self.own_headers, credentials=self.config.forward_authorization)

    # -- probes --------------------------------------------------------------------------------------------------------

    def probed(self, result: ProbeResult, now: float) -> None:
        """Takes over what an active probe found.

        One that was well and is down has its circuit opened. One that is back is given requests without waiting out its
        circuit. One whose engine stands still is not given
        any, though its server answers; one that answers requests is only too busy for a probe in time.
        """
        settings = self.config.health
        doubtful = self.vitality.doubtful
        if result.good:
            self.vitality.seen(now - result.duration)  # a request that missed it since then knows better
            cleared = doubtful and not self.vitality.doubtful
            back = result.state_changed and self.state != ProbeState.UNKNOWN.value
            if back or cleared or settings.probe == "generate":
                self.breaker.end_open_time(now)
        busy = result.timed_out and self.vitality.seen_since(now - settings.timeout - settings.interval)
        if self.healthy and self.state == ProbeState.HEALTHY and not (result.healthy or busy):
            self.breaker.trip(
                now
            )  # so that it comes back as after failed requests: on probation, then little by little
        self.healthy = result.healthy or busy
        self.state = result.state.value
        self.message = "too busy to answer checks in time" if busy else result.message
        load = result.load
        if load is not None:
            self.waiting = load.waiting or 0.0
            if load.waiting is not None:
                self.limiter.queued(load.waiting)
            self.kv_cache = load.kv_cache or 0.0
            self.gpu_memory, self.strained = load.gpu_memory, load.gpu_unhealthy
            if load.generation_tokens is not None and self.progress.sample(
                load.running or 0.0, load.generation_tokens, now
            ):
                self.healthy = False
                self.state = STALLED
                self.message = "stalled: requests run and no token comes"
        self.in_service = self.healthy and self.service is Service.ACTIVE
        self.last_lines = result.last_lines
        if result.context_length is not None and self.config.context_length is None:
            self.context_length = result.context_length

    # -- operators -----------------------------------------------------------------------------------------------------

    def set_service(self, service: Service, now: float) -> None:
        """Takes it out of service or back, whatever the probes and its circuit say.

        An ejected one loses what it was doing: those requests go elsewhere. One that is back has its circuit closed.
        """
        if service is Service.ACTIVE:
            self.breaker.reset(now)
        self.service = service
        self.in_service = self.healthy and service is Service.ACTIVE
        if service is Service.EJECTED:
            self.pool.break_off("ejected by an operator")

    def keep_to(self, timeout: TimeoutPolicy) -> None:
        """Goes by these times from now on: a reload may change them and leave all else as it is."""
        self.pool.connect_timeout = timeout.connect
        self.progress.window = max(timeout.first_token, _LEAST_PROGRESS)

    def take_over(self, before: Endpoint, now: float) -> None:
        """Keeps what operators said of the endpoint that had this name in the configuration before; and what is known
        of its server, if that is the same: how it is to be treated changes nothing about how it is."""
        if before.config.url == self.config.url:
            self.breaker.restore(before.breaker.export(now), now)
            self.vitality = before.vitality
            self.quickest = before.quickest
            self.away_until = before.away_until
        elif before.breaker.forced:
            self.breaker.force_open(now)
        if before.service is not Service.ACTIVE:
            self.set_service(before.service, now)

    # -- showing -------------------------------------------------------------------------------------------------------

    def bind_metrics(self, metrics: EndpointMetrics, clock: Callable[[], float]) -> None:
        """Lets the metrics read this endpoint and hear of its breaker."""

        def changed(state: State) -> None:
            metrics.breaker_transitions[state.value] += 1

        self.on_transition = changed
        metrics.bind(
            breaker_state=lambda: self.breaker.state(clock()).value,
            in_flight=lambda: self.in_flight,
            limit=lambda: self.limit,
            healthy=lambda: self.healthy,
            service=lambda: self.service.value,
        )

    def snapshot(self, now: float) -> dict[str, Any]:
        """What operators see of it."""
        return {
            "kind": self.config.kind,
            "state": self.state,
            "healthy": self.healthy,
            "service": self.service.value,
            "message": self.message,
            "last_lines": self.last_lines,
            "breaker": self.breaker.state(now).value,
            "retry_after": self.retry_after(now),
            "in_flight": self.in_flight,
            "limit": self.limit,
            "context_length": self.context_length,
            "connections": self.pool.open,
            "waiting": self.waiting,
            "kv_cache": self.kv_cache,
            "gpu_memory": self.gpu_memory,
            "strained": self.strained,
            "weight": self.weight,
        }

    def _changed(self, state: State) -> None:
        self._returning = state is State.CLOSED
        self.transitions.append((monotonic(), state.value))
        self.on_transition(state)

    def _return(self, now: float) -> None:
        share = slow_start(self.breaker.closed_at, now, SLOW_START, _FIRST_SHARE)
        self.weight = float(self.config.weight) * share
        self._returning = share < 1.0


def _limiter(policy: AdaptiveConcurrency | FixedConcurrency) -> ConcurrencyLimit:
    if isinstance(policy, FixedConcurrency):
        return FixedLimit(policy.limit)
    return GradientLimit(policy.min, policy.max)


def _settings(policy: CircuitBreakerPolicy) -> BreakerSettings:
    values = policy.model_dump(exclude={"slow_call", "max_ejected"})
    slow = policy.slow_call
    return BreakerSettings(**values, slow_call=SlowCallSettings(slow.over, slow.ratio) if slow is not None else None)


def credentials(config: BackendConfig) -> dict[str, str]:
    """The headers with which Seawall makes itself known to the backend, names in lower case."""
    headers: dict[str, str] = {}
    if config.api_key is not None:
        secret = config.api_key.get_secret_value()
        if config.kind == "anthropic":
            headers |= {"x-api-key": secret, "anthropic-version": _ANTHROPIC_VERSION}
        else:
            headers["authorization"] = f"Bearer {secret}"
    return headers | {name.lower(): value.get_secret_value() for name, value in config.headers.items()}


def _head_lines(host: str, config: BackendConfig) -> bytes:
    """The header lines that every request to the endpoint carries."""
    lines = {"host": host, "accept-encoding": "identity", **credentials(config)}
    return "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode("latin-1")
