"""The policy section: how requests of a route are retried, limited, hedged and degraded."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from gateway.config.base import Count, Flag, Integer, Name, Number, Ratio, Section, invalid, or_empty
from gateway.config.problems import closest, shown
from gateway.config.units import DURATION_PATTERN, Duration, PositiveDuration, Size, Unit, parse_duration
from policies.outcome import CONSEQUENCES, Elsewhere, ErrorKind

Balance = Literal["round_robin", "random", "p2c", "least_load", "prefix", "session"]
Signal = Literal["gpu", "kv_cache", "queue", "cpu", "memory"]

#: Kinds that another attempt may cure; the rest are the client's to mend.
RETRYABLE = tuple(kind.value for kind, (elsewhere, _) in CONSEQUENCES.items() if elsewhere is not Elsewhere.NO)


class TimeoutPolicy(Section):
    """Deadlines of a request and of each of its attempts."""

    connect: PositiveDuration = Field(2.0, description="To open a connection to an endpoint.", examples=["2s"])
    first_token: PositiveDuration = Field(
        30.0, description="From sending a request to the first byte of content.", examples=["30s"]
    )
    idle: PositiveDuration = Field(15.0, description="Longest silence inside an answer.", examples=["15s"])
    total: PositiveDuration = Field(
        600.0, description="The whole request, all attempts and waits together.", examples=["10m"]
    )


class BackoffPolicy(Section):
    """Waits between attempts: `initial * factor^n`, at most `max`."""

    initial: Duration = Field(0.05, description="Before the second attempt.", examples=["50ms"])
    factor: Number = Field(2.0, ge=1, le=10, description="Growth with each attempt.", examples=[2])
    max: Duration = Field(2.0, description="Longest wait.", examples=["2s"])
    jitter: Literal["full", "equal", "none"] = Field(
        "full",
        description="full: anywhere from 0 to the wait; equal: from half of it; none: exactly the wait.",
        examples=["full"],
    )

    @model_validator(mode="after")
    def _ordered(self) -> "BackoffPolicy":
        if self.max < self.initial:
            raise invalid("must be at least backoff.initial", key="max")
        return self


class BudgetPolicy(Section):
    """Keeps retries from multiplying the load of backends that are failing."""

    ratio: Ratio = Field(0.2, description="Retries allowed as a share of requests.", examples=[0.2])
    min_per_second: Number = Field(
        3.0, ge=0, le=10000, description="Retries a second that are always allowed.", examples=[3]
    )


def _retryable(value: Any) -> Any:
    if isinstance(value, str) and value not in RETRYABLE:
        if value in CONSEQUENCES:
            raise invalid("is never retried: another attempt would say the same", f"can be: {', '.join(RETRYABLE)}")
        raise invalid(f"there is no error type {shown(value)}", closest(value, RETRYABLE))
    return value


RetryableKind = Annotated[
    ErrorKind, BeforeValidator(_retryable), WithJsonSchema({"type": "string", "enum": [*RETRYABLE]})
]


class RetryPolicy(Section):
    """When and how often to try again."""

    attempts: Integer = Field(
        3,
        ge=1,
        le=10,
        description="Attempts a request may use over all tiers together, the first included. "
        "Each further tier is granted one more.",
        examples=[3],
    )
    backoff: Annotated[BackoffPolicy, BeforeValidator(or_empty)] = Field(
        default_factory=BackoffPolicy, description="Waits between attempts."
    )
    budget: Annotated[BudgetPolicy, BeforeValidator(or_empty)] = Field(
        default_factory=BudgetPolicy, description="The retry budget of a route."
    )
    on: tuple[RetryableKind, ...] = Field(
        (
            ErrorKind.BACKEND_UNREACHABLE,
            ErrorKind.MODEL_OVERLOADED,
            ErrorKind.MODEL_LOADING,
            ErrorKind.GENERATION_FAILED,
            ErrorKind.INFERENCE_TIMEOUT,
        ),
        description="Error types that are retried.",
        examples=[["backend_unreachable", "model_overloaded"]],
    )


class SlowCallPolicy(Section):
    """Opens the circuit of an endpoint that answers, but too slowly."""

    over: PositiveDuration = Field(
        20.0, description="An attempt without a first token for this long is slow.", examples=["20s"]
    )
    ratio: Ratio = Field(0.8, gt=0, description="Share of slow attempts that opens the circuit.", examples=[0.8])


class CircuitBreakerPolicy(Section):
    """Takes a failing endpoint out of rotation, then lets a few probes find out whether it is back."""

    window: PositiveDuration = Field(30.0, description="The time looked back on.", examples=["30s"])
    min_requests: Count = Field(10, description="Fewer attempts in the window than this say nothing.", examples=[10])
    failure_ratio: Ratio = Field(
        0.5, gt=0, description="Share of failed attempts that opens the circuit.", examples=[0.5]
    )
    consecutive_failures: Count = Field(
        5, description="Failures in a row that open it, whatever the window says.", examples=[5]
    )
    slow_call: SlowCallPolicy | None = Field(
        default_factory=SlowCallPolicy, description="Slowness that counts as failure. null: off."
    )
    open_for: PositiveDuration = Field(
        10.0, description="First time out; doubles each time it opens again.", examples=["10s"]
    )
    max_open_for: PositiveDuration = Field(300.0, description="Longest time out.", examples=["5m"])
    half_open_probes: Integer = Field(
        2, ge=1, le=100, description="Good probes that close the circuit; as many may run at once.", examples=[2]
    )
    max_ejected: Ratio = Field(
        0.5,
        description="Share of a tier's endpoints that may be out at once; above it the others stay in.",
        examples=[0.5],
    )

    @model_validator(mode="after")
    def _ordered(self) -> "CircuitBreakerPolicy":
        if self.max_open_for < self.open_for:
            raise invalid("must be at least open_for", key="max_open_for")
        return self


def _after(value: Any) -> Any:
    if value is None or value == "p95":
        return value
    try:
        seconds = parse_duration(value)
    except ValueError as error:
        raise invalid(str(error), "hedge.after is a duration, p95 or null") from None
    if seconds == 0:
        raise invalid("must be more than 0s", "null turns hedging off")
    return seconds


class HedgePolicy(Section):
    """Asks a second endpoint when the first is slow to begin, and takes whichever begins first."""

    after: Annotated[
        float | Literal["p95"] | None,
        BeforeValidator(_after),
        Unit("duration"),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "number", "exclusiveMinimum": 0},
                    {"type": "string", "pattern": DURATION_PATTERN},
                    {"const": "p95"},
                    {"type": "null"},
                ],
                "x-unit": "duration",
            }
        ),
    ] = Field(
        None,
        description="Wait for a first token before hedging: a duration, or `p95` of the route's recent ones. "
        "null: off.",
        examples=["p95"],
    )
    max: Integer = Field(1, ge=1, le=5, description="Hedged attempts of one request.", examples=[1])
    budget: Ratio = Field(
        0.05,
        description="Hedges allowed as a share of requests; each is taken from the retry budget too.",
        examples=[0.05],
    )
    max_body: Size = Field(
        32 * 1024, description="Larger requests are never hedged: their prefill is long.", examples=["32KiB"]
    )
    images: Flag = Field(False, description="Hedge requests for images too.", examples=[False])


class StreamPolicy(Section):
    """Streams that break, and streams that wait."""

    resume: Flag = Field(
        True, description="Continue a broken stream on another endpoint, where that is exact.", examples=[True]
    )
    max_resumes: Integer = Field(2, ge=0, le=10, description="Resumes of one stream.", examples=[2])
    keepalive: Duration = Field(
        15.0, description="A comment is sent to the client after this much silence. 0s: never.", examples=["15s"]
    )


class AdaptiveConcurrency(Section):
    """A limit for each endpoint that follows its latency."""

    mode: Literal["adaptive"] = Field("adaptive", description="Follow the measured latency.")
    min: Count = Field(4, description="The limit never falls below this.", examples=[4])
    max: Count = Field(512, description="The limit never rises above this.", examples=[512])

    @model_validator(mode="after")
    def _ordered(self) -> "AdaptiveConcurrency":
        if self.max < self.min:
            raise invalid("must be at least concurrency.min", key="max")
        return self


class FixedConcurrency(Section):
    """A limit for each endpoint that stays as it is."""

    mode: Literal["fixed"] = Field(description="Keep one limit.")
    limit: Count = Field(description="Requests in flight at an endpoint.", examples=[64])


def _mode(value: Any) -> Any:
    """Lets `mode` be left out, where the discriminated union would want it."""
    value = or_empty(value)
    return {"mode": "adaptive", **value} if isinstance(value, dict) else value


class AdmissionPolicy(Section):
    """The waiting room when all endpoints are at their limit."""

    max_queue: Integer = Field(
        256, ge=0, le=100000, description="Requests that may wait; more are answered 503.", examples=[256]
    )
    max_wait: Duration = Field(10.0, description="Longest wait before a 503.", examples=["10s"])


class OomPolicy(Section):
    """What to do when a backend runs out of GPU memory."""

    shrink: Number = Field(
        0.5,
        gt=0,
        lt=1,
        description="Factor on max_tokens, steps, n and an image's pixels for another try at the same endpoint; "
        "the answer says so.",
        examples=[0.5],
    )
    attempts: Integer = Field(1, ge=0, le=3, description="Such tries of one request. 0: none.", examples=[1])


class DegradeLevel(Section):
    """From which pressure on, and how far, quality is reduced."""

    above: Ratio = Field(0.7, description="Pressure (0 to 1) from which on the level applies.", examples=[0.7])
    quality: Ratio = Field(
        0.7, gt=0, description="Factor on max_tokens, steps and n; the answer says so.", examples=[0.7]
    )


class MinimalLevel(DegradeLevel):
    """The level of last resort."""

    above: Ratio = Field(0.9, description="Pressure (0 to 1) from which on the level applies.", examples=[0.9])
    quality: Ratio = Field(
        0.4, gt=0, description="Factor on max_tokens, steps and n; the answer says so.", examples=[0.4]
    )


class DegradePolicy(Section):
    """Less per request while backends are under pressure, and says so."""

    signal: tuple[Signal, ...] = Field(
        ("gpu", "kv_cache", "queue", "cpu", "memory"),
        description="What is watched; the highest counts. kv_cache and queue are the servers' own, and so is "
        "gpu (memory) where a worker of Seawall tells it. Else gpu, and always cpu and memory, are those of the "
        "machine that Seawall runs on, for servers that share it. gpu says nothing of vllm and sglang, which reserve "
        "it. An empty list turns degradation off.",
        examples=[["kv_cache", "queue"]],
    )
    reduced: Annotated[DegradeLevel, BeforeValidator(or_empty)] = Field(
        default_factory=DegradeLevel, description="The first level."
    )
    minimal: Annotated[MinimalLevel, BeforeValidator(or_empty)] = Field(
        default_factory=MinimalLevel, description="The second level."
    )

    @model_validator(mode="after")
    def _ordered(self) -> "DegradePolicy":
        if self.minimal.above <= self.reduced.above:
            raise invalid("minimal.above must be higher than reduced.above", key="minimal")
        if self.minimal.quality > self.reduced.quality:
            raise invalid("minimal.quality must not be higher than reduced.quality", key="minimal")
        return self


def _or_off(value: Any) -> Any:
    return {"signal": ()} if value is None else value


class LimitsPolicy(Section):
    """The largest request taken; a larger one is answered 4xx and says what the limit is."""

    max_input_chars: Count = Field(200000, description="Characters of input text.", examples=[200000])
    max_tokens: Count = Field(8192, description="Tokens an answer may ask for.", examples=[8192])
    max_pixels: Count = Field(1048576, description="Width times height of an image.", examples=[1048576])
    max_steps: Count = Field(100, description="Diffusion steps.", examples=[100])


class StaleIfErrorPolicy(Section):
    """An earlier answer to the same deterministic request of the same caller, when everything fails; it says so."""

    ttl: Duration = Field(0.0, description="How old it may be. 0s: off.", examples=["10m"])
    max_entries: Count = Field(1000, description="Answers kept for a route at most.", examples=[1000])
    max_size: Size = Field(64 * 1024 * 1024, description="What they take at most.", examples=["64MiB"])


class FaultPolicy(Section):
    """Faults made on purpose, for game days."""

    abort: Ratio = Field(0.0, description="Share of attempts answered with `status` at once.", examples=[0.1])
    status: Integer = Field(503, ge=400, le=599, description="Status of aborted attempts.", examples=[503])
    delay: Duration = Field(0.0, description="Delay put before an attempt.", examples=["2s"])
    share: Ratio = Field(1.0, description="Share of attempts that are delayed.", examples=[0.05])

    @model_validator(mode="after")
    def _does_something(self) -> "FaultPolicy":
        if self.abort == 0 and (self.delay == 0 or self.share == 0):
            raise invalid("injects nothing", "give abort a share, or delay a time; null turns faults off")
        return self


class PolicyConfig(Section):
    """One complete policy: what is not written here comes from the policy it extends."""

    extends: Name | None = Field(
        None,
        description="The policy this one builds on, section by section; `default` where nothing is written.",
        examples=["default"],
    )
    balance: Balance = Field(
        "least_load",
        description="How an endpoint is picked. least_load: the least loaded of all, or of eight at random where a "
        "tier has more than sixteen of equal weight; p2c: the less loaded of two at random; prefix: requests with the "
        "same beginning to the same endpoint; session: those with the same `X-Session-ID`.",
        examples=["prefix"],
    )
    timeout: Annotated[TimeoutPolicy, BeforeValidator(or_empty)] = Field(
        default_factory=TimeoutPolicy, description="Deadlines."
    )
    retry: Annotated[RetryPolicy, BeforeValidator(or_empty)] = Field(
        default_factory=RetryPolicy, description="Retries."
    )
    circuit_breaker: Annotated[CircuitBreakerPolicy, BeforeValidator(or_empty)] = Field(
        default_factory=CircuitBreakerPolicy, description="Circuit breaker of each endpoint."
    )
    hedge: Annotated[HedgePolicy, BeforeValidator(or_empty)] = Field(
        default_factory=HedgePolicy, description="Hedged requests."
    )
    stream: Annotated[StreamPolicy, BeforeValidator(or_empty)] = Field(
        default_factory=StreamPolicy, description="Streams."
    )
    concurrency: Annotated[
        AdaptiveConcurrency | FixedConcurrency, Field(discriminator="mode"), BeforeValidator(_mode)
    ] = Field(default_factory=AdaptiveConcurrency, description="Requests in flight at each endpoint.")
    admission: Annotated[AdmissionPolicy, BeforeValidator(or_empty)] = Field(
        default_factory=AdmissionPolicy, description="The queue before the endpoints."
    )
    oom: Annotated[OomPolicy, BeforeValidator(or_empty)] = Field(
        default_factory=OomPolicy, description="Out of GPU memory."
    )
    degrade: Annotated[DegradePolicy, BeforeValidator(_or_off)] = Field(
        default_factory=DegradePolicy,
        description="Graceful degradation: on where this section is written, with `{}` as it stands. null: off.",
    )
    limits: Annotated[LimitsPolicy, BeforeValidator(or_empty)] = Field(
        default_factory=LimitsPolicy, description="Limits on requests."
    )
    stale_if_error: Annotated[StaleIfErrorPolicy, BeforeValidator(or_empty)] = Field(
        default_factory=StaleIfErrorPolicy, description="Stale answers."
    )
    fault: FaultPolicy | None = Field(None, description="Fault injection. null: none.")

    @property
    def degrades(self) -> bool:
        """Whether requests are made smaller under pressure: only where the section is written, here or above."""
        return "degrade" in self.model_fields_set and bool(self.degrade.signal)
