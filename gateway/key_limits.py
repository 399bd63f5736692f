"""What each API key may ask for now: its models, and requests at a time."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.errors.taxonomy import GatewayError
from gateway.identity import ApiKey
from policies.outcome import ErrorKind


class KeyLimits:
    """Requests in flight by key name; bounded by the number of configured keys."""

    def __init__(self, keys: Iterable[ApiKey], previous: KeyLimits | None = None) -> None:
        # The dict is shared with a request that began before a reload, so that its release is not lost.
        self._in_flight: dict[str, int] = previous._in_flight if previous is not None else {}
        for key in keys:
            self._in_flight.setdefault(key.name, 0)

    def admit(self, key: ApiKey, model: str) -> None:
        """Counts a request of the key. Raises GatewayError when the key may not ask for the model, or not now."""
        if not key.allows(model):
            message = f"This API key may not use the model '{model[:100]}'. GET /v1/models lists those it may use."
            raise GatewayError(ErrorKind.PERMISSION_DENIED, message, param="model")
        if key.concurrency is not None and self._in_flight[key.name] >= key.concurrency:
            message = f"This API key has {key.concurrency} requests in flight, as many as it may. Wait for one to end."
            raise GatewayError(ErrorKind.RATE_LIMITED, message)
        self._in_flight[key.name] += 1

    def release(self, key: ApiKey) -> None:
        """A request of the key is over."""
        self._in_flight[key.name] -= 1
