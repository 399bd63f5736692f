"""What each API key may ask for now: its models, requests and tokens per minute, and requests at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from backends.dialect import Usage
from gateway.errors.taxonomy import GatewayError
from gateway.identity import ApiKey
from gateway.validation.facts import Facts
from policies.outcome import ErrorKind
from policies.ratelimit import PERIOD, Quota, RateLimit

#: Characters of text to a token, as OpenAI's own limits reckon.
_CHARS_PER_TOKEN = 4
#: Tokens taken for an answer whose length nobody bounded, until the key's own answers tell better.
_TYPICAL_ANSWER = 256.0
_SMOOTHING = 0.1
#: Bytes of a streamed frame with one token in it; for streams that end without their usage.
_BYTES_PER_FRAME = 200


class Grant:
    """A request that was let in. Hand it to `KeyLimits.settle` once. `headers` tell the client how its key stands."""

    __slots__ = ("completion", "headers", "prompt", "reserved", "state")

    def __init__(self, state: _KeyState) -> None:
        self.state = state
        self.prompt = self.completion = self.reserved = 0
        self.headers = b""


class _KeyState:
    __slots__ = ("elsewhere", "in_flight", "key", "policy", "requests", "tokens", "typical")

    def __init__(self, key: ApiKey) -> None:
        self.key = key
        self.in_flight = self.elsewhere = 0
        self.typical = _TYPICAL_ANSWER
        self.requests = RateLimit(key.requests_per_minute) if key.requests_per_minute is not None else None
        self.tokens = RateLimit(key.tokens_per_minute) if key.tokens_per_minute is not None else None
        self.policy = _policy(key)

    def estimate(self, grant: Grant, facts: Facts) -> None:
        """What the request may cost: its text, and its bound on the answer or what the key's answers usually take."""
        assert self.tokens is not None
        grant.prompt = facts.input_chars // _CHARS_PER_TOKEN + 1
        if facts.endpoint.token_limits:
            answer = facts.max_tokens if facts.max_tokens is not None else math.ceil(self.typical)
            grant.completion = answer * facts.n
        grant.reserved = min(grant.prompt + grant.completion, self.tokens.limit)

    def headers(self, now: float) -> dict[str, str]:
        """OpenAI's `x-ratelimit-*`, and the fields of the IETF's draft (draft-ietf-httpapi-ratelimit-headers).

        `RateLimit-Limit`, `-Remaining` and `-Reset`, of its earlier versions, are about the limit with the least left.
        """
        quotas: dict[str, Quota] = {}
        if self.requests is not None:
            quotas["requests"] = self.requests.quota(now)
        if self.tokens is not None:
            quotas["tokens"] = self.tokens.quota(now)
        if not quotas:
            return {}
        headers: dict[str, str] = {}
        for name, quota in quotas.items():
            headers[f"x-ratelimit-limit-{name}"] = str(quota.limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(quota.remaining)
            headers[f"x-ratelimit-reset-{name}"] = _duration(quota.reset)
        scarce = min(quotas.values(), key=lambda quota: quota.remaining / quota.limit)
        headers["RateLimit-Policy"] = self.policy
        headers["RateLimit"] = ", ".join(f'"{n}";r={q.remaining};t={math.ceil(q.reset)}' for n, q in quotas.items())
        headers["RateLimit-Limit"] = str(scarce.limit)
        headers["RateLimit-Remaining"] = str(scarce.remaining)
        headers["RateLimit-Reset"] = str(math.ceil(scarce.reset))
        return headers


class KeyLimits:
    """State by key name. Keys that a reload leaves as they were keep theirs; `now` is monotonic seconds."""

    def __init__(self, keys: Iterable[ApiKey], previous: KeyLimits | None = None) -> None:
        kept = previous._states if previous is not None else {}
        self._states: dict[str, _KeyState] = {}
        for key in keys:
            old = kept.get(key.name)
            self._states[key.name] = old if old is not None and old.key == key else _KeyState(key)

    def admit(self, key: ApiKey, model: str, facts: Facts, now: float) -> Grant:
        """Lets a request of the key in and takes what it may cost; all of it or nothing.

        Raises GatewayError when the key may not ask for the model, or not now.
        """
        if not key.allows(model):
            message = f"This API key may not use the model '{model[:100]}'. GET /v1/models lists those it may use."
            raise GatewayError(ErrorKind.PERMISSION_DENIED, message, param="model")
        state = self._states[key.name]
        grant = Grant(state)
        requests, tokens = state.requests, state.tokens
        if key.concurrency is not None and state.in_flight + state.elsewhere >= key.concurrency:
            message = f"This API key has {key.concurrency} requests in flight, as many as it may. Wait for one to end."
            raise GatewayError(ErrorKind.RATE_LIMITED, message, headers=state.headers(now))
        if tokens is not None:
            state.estimate(grant, facts)
            if (wait := tokens.retry_after(now, grant.reserved)) > 0:
                raise _refusal(state, "tokens", tokens, wait, now)
        if requests is not None and not requests.try_take(now):
            raise _refusal(state, "requests", requests, requests.retry_after(now), now)
        if tokens is not None:
            tokens.charge(now, grant.reserved)
        state.in_flight += 1
        if requests is not None or tokens is not None:
            lines = [f"{name.lower()}: {value}\r\n" for name, value in state.headers(now).items()]
            grant.headers = "".join(lines).encode("ascii")
        return grant

    def concurrencies(self) -> Iterator[tuple[str, int]]:
        """(key's name, requests in flight here) of the keys with a limit of them."""
        for name, state in self._states.items():
            if state.key.concurrency is not None:
                yield name, state.in_flight

    def rates(self) -> Iterator[tuple[str, str, RateLimit]]:
        """(key's name, unit, limit) of all rate limits."""
        for name, state in self._states.items():
            if state.requests is not None:
                yield name, "requests", state.requests
            if state.tokens is not None:
                yield name, "tokens", state.tokens

    def elsewhere(self, name: str, in_flight: int) -> None:
        """How many requests of a key other replicas have."""
        self._states[name].elsewhere = in_flight

    def settle(self, grant: Grant, usage: Usage | None, streamed: int | None, now: float) -> None:
        """The request is over: takes what it did cost instead of what it might have.

        `streamed` is how many bytes of a stream the client got, None for an answer that was no stream, and -1 when
        there was no answer. Without `usage` a stream's tokens are reckoned from its bytes, never above the estimate.
        """
        state = grant.state
        state.in_flight -= 1
        if state.tokens is None:
            return
        if usage is not None:
            cost = usage.prompt_tokens + usage.completion_tokens
            state.typical += _SMOOTHING * (usage.completion_tokens - state.typical)
        elif streamed is None:
            cost = grant.reserved
        elif streamed < 0:
            cost = 0
        else:
            cost = grant.prompt + min(streamed // _BYTES_PER_FRAME, grant.completion)
        state.tokens.charge(now, cost - grant.reserved)


def _refusal(state: _KeyState, unit: str, limit: RateLimit, wait: float, now: float) -> GatewayError:
    message = (
        f"This API key has used its {limit.limit} {unit} per minute, or this request needs more than is left. "
        f"Try again in {math.ceil(wait)} s."
    )
    return GatewayError(ErrorKind.RATE_LIMITED, message, retry_after=wait, headers=state.headers(now))


def _policy(key: ApiKey) -> str:
    """`RateLimit-Policy`: quota (q) per window (w, seconds)."""
    units = {"requests": key.requests_per_minute, "tokens": key.tokens_per_minute}
    entries = [f'"{name}";q={limit};w={PERIOD:.0f}' for name, limit in units.items() if limit is not None]
    if key.concurrency is not None:
        entries.append(f'"concurrency";q={key.concurrency};qu="concurrent-requests"')
    return ", ".join(entries)


def _duration(seconds: float) -> str:
    """As OpenAI writes it: `120ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    return f"{f'{minutes:.0f}m' if minutes else ''}{rest:.3f}".rstrip("0").rstrip(".") + "s"
