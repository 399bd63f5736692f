"""What an API key may ask for."""

from __future__ import annotations

import pytest

from backends.dialect import Usage
from gateway.errors.taxonomy import GatewayError
from gateway.identity import ApiKey
from gateway.key_limits import KeyLimits
from policies.outcome import ErrorKind


def key(**limits: object) -> ApiKey:
    values = {"models": (), "requests_per_minute": None, "tokens_per_minute": None, "concurrency": None} | limits
    return ApiKey(name="team", priority=None, **values)  # type: ignore[arg-type]


def refused(limits: KeyLimits, team: ApiKey, now: float, model: str = "m") -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        limits.admit(team, model, now)
    return caught.value


def test_a_model_that_is_not_the_keys_is_denied() -> None:
    team = key(models=("llama*",))
    assert refused(KeyLimits([team]), team, 0.0, "qwen").kind is ErrorKind.PERMISSION_DENIED


def test_concurrency_is_given_back_with_each_request() -> None:
    team = key(concurrency=1)
    limits = KeyLimits([team])
    limits.admit(team, "m", 0.0)
    assert refused(limits, team, 0.0).kind is ErrorKind.RATE_LIMITED
    limits.release(team, None, 0.0)
    limits.admit(team, "m", 0.0)


def test_requests_per_minute_come_back_with_time() -> None:
    team = key(requests_per_minute=2)
    limits = KeyLimits([team])
    for _ in range(2):
        limits.admit(team, "m", 0.0)
    error = refused(limits, team, 0.0)
    assert error.status == 429
    assert error.retry_after == pytest.approx(30.0)
    limits.admit(team, "m", 30.0)


def test_tokens_are_charged_when_they_are_known() -> None:
    team = key(tokens_per_minute=100)
    limits = KeyLimits([team])
    limits.admit(team, "m", 0.0)
    limits.release(team, Usage(80, 100), 0.0)
    assert refused(limits, team, 0.0).kind is ErrorKind.RATE_LIMITED
    limits.admit(team, "m", 60.0)


def test_a_reload_keeps_what_was_used_unless_the_key_changed() -> None:
    team = key(requests_per_minute=1)
    limits = KeyLimits([team])
    limits.admit(team, "m", 0.0)
    assert refused(KeyLimits([team], limits), team, 0.0)
    KeyLimits([key(requests_per_minute=2)], limits).admit(key(requests_per_minute=2), "m", 0.0)
