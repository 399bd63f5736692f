"""What each API key may ask for now: its models, requests and tokens per minute, and requests at a time."""

from __future__ import annotations

from collections.abc import Iterable

from backends.dialect import Usage
from gateway.errors.taxonomy import GatewayError
from gateway.identity import ApiKey
from policies.outcome import ErrorKind
from policies.ratelimit import RateLimit


class _KeyState:
    __slots__ = ("in_flight", "key", "requests", "tokens")

    def __init__(self, key: ApiKey) -> None:
        self.key = key
        self.in_flight = 0
        self.requests = RateLimit(key.requests_per_minute) if key.requests_per_minute is not None else None
        self.tokens = RateLimit(key.tokens_per_minute) if key.tokens_per_minute is not None else None


class KeyLimits:
    """State by key name. Keys that a reload leaves as they were keep theirs; `now` is monotonic seconds."""

    def __init__(self, keys: Iterable[ApiKey], previous: KeyLimits | None = None) -> None:
        kept = previous._states if previous is not None else {}
        self._states: dict[str, _KeyState] = {}
        for key in keys:
            old = kept.get(key.name)
            self._states[key.name] = old if old is not None and old.key == key else _KeyState(key)

    def admit(self, key: ApiKey, model: str, now: float) -> None:
        """Counts a request of the key. Raises GatewayError when the key may not ask for the model, or not now."""
        if not key.allows(model):
            message = f"This API key may not use the model '{model[:100]}'. GET /v1/models lists those it may use."
            raise GatewayError(ErrorKind.PERMISSION_DENIED, message, param="model")
        state = self._states[key.name]
        if key.concurrency is not None and state.in_flight >= key.concurrency:
            message = f"This API key has {key.concurrency} requests in flight, as many as it may. Wait for one to end."
            raise GatewayError(ErrorKind.RATE_LIMITED, message)
        if state.tokens is not None and (wait := state.tokens.retry_after(now)) > 0:
            message = f"This API key has used its {state.tokens.limit} tokens per minute. Try again in {wait:.0f} s."
            raise GatewayError(ErrorKind.RATE_LIMITED, message, retry_after=wait)
        if state.requests is not None and not state.requests.try_take(now):
            wait = state.requests.retry_after(now)
            message = f"This key has made its {state.requests.limit} requests per minute. Try again in {wait:.0f} s."
            raise GatewayError(ErrorKind.RATE_LIMITED, message, retry_after=wait)
        state.in_flight += 1

    def release(self, key: ApiKey, usage: Usage | None, now: float) -> None:
        """A request of the key is over; its tokens are known only now, so the next request pays for them."""
        state = self._states[key.name]
        state.in_flight -= 1
        if state.tokens is not None and usage is not None:
            state.tokens.charge(now, usage.prompt_tokens + usage.completion_tokens)
