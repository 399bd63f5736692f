"""What an API key may ask for."""

from __future__ import annotations

import re

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from backends.dialect import Usage
from gateway.errors.taxonomy import GatewayError
from gateway.identity import ApiKey
from gateway.key_limits import Grant, KeyLimits
from gateway.validation.body import parse_body
from gateway.validation.facts import Facts
from policies.outcome import ErrorKind

PLAIN = Facts(b"")
#: 40 characters of text, eleven tokens by estimate.
PROMPT = "x" * 40


def key(**limits: object) -> ApiKey:
    values = {"models": (), "requests_per_minute": None, "tokens_per_minute": None, "concurrency": None} | limits
    return ApiKey(name="team", priority=None, **values)  # type: ignore[arg-type]


def chat(max_tokens: int | None = None, n: int = 1) -> Facts:
    bound = f', "max_tokens": {max_tokens}' if max_tokens is not None else ""
    body = f'{{"model": "m", "messages": [{{"role": "user", "content": "{PROMPT}"}}], "n": {n}{bound}}}'
    return parse_body("/v1/chat/completions", "application/json", body.encode())


def refused(limits: KeyLimits, team: ApiKey, now: float, model: str = "m", facts: Facts = PLAIN) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        limits.admit(team, model, facts, now)
    return caught.value


def told(grant: Grant) -> dict[str, str]:
    """The headers of an answer to the request."""
    return dict(line.split(": ", 1) for line in grant.headers.decode().splitlines())


def test_a_model_that_is_not_the_keys_is_denied() -> None:
    team = key(models=("llama*",))
    assert refused(KeyLimits([team]), team, 0.0, "qwen").kind is ErrorKind.PERMISSION_DENIED


def test_concurrency_is_given_back_with_each_request() -> None:
    team = key(concurrency=1)
    limits = KeyLimits([team])
    grant = limits.admit(team, "m", PLAIN, 0.0)
    assert refused(limits, team, 0.0).kind is ErrorKind.RATE_LIMITED
    limits.settle(grant, None, None, 0.0)
    limits.admit(team, "m", PLAIN, 0.0)


def test_requests_per_minute_come_back_with_time() -> None:
    team = key(requests_per_minute=2)
    limits = KeyLimits([team])
    for _ in range(2):
        limits.admit(team, "m", PLAIN, 0.0)
    error = refused(limits, team, 0.0)
    assert error.status == 429
    assert error.retry_after == pytest.approx(30.0)
    limits.admit(team, "m", PLAIN, 30.0)


def remaining(limits: KeyLimits, team: ApiKey, now: float) -> int:
    return int(limits._states[team.name].headers(now)["x-ratelimit-remaining-tokens"])


@pytest.mark.parametrize(
    ("facts", "taken"),
    [
        (chat(max_tokens=100), 111),
        (chat(max_tokens=100, n=3), 311),
        (chat(), 11 + 256),
        (parse_body("/v1/embeddings", "application/json", b'{"model": "m", "input": "%b"}' % PROMPT.encode()), 11),
        (chat(max_tokens=10**9), 1000),
    ],
)
def test_tokens_are_taken_by_estimate(facts: Facts, taken: int) -> None:
    team = key(tokens_per_minute=1000)
    limits = KeyLimits([team])
    limits.admit(team, "m", facts, 0.0)
    assert remaining(limits, team, 0.0) == 1000 - taken


@pytest.mark.parametrize(
    ("usage", "streamed", "cost"),
    [
        (Usage(20, 30), None, 50),
        (Usage(20, 30), 6000, 50),
        (Usage(900, 2000), None, 2900),
        (None, -1, 0),  # no answer
        (None, None, 111),  # an answer that does not say
        (None, 6000, 11 + 30),  # a stream that does not say: 30 frames of it
        (None, 10**9, 111),
    ],
)
def test_what_the_answer_did_cost_replaces_the_estimate(usage: Usage | None, streamed: int | None, cost: int) -> None:
    team = key(tokens_per_minute=6000)
    limits = KeyLimits([team])
    limits.settle(limits.admit(team, "m", chat(max_tokens=100), 0.0), usage, streamed, 0.0)
    assert remaining(limits, team, 0.0) == 6000 - cost


def test_a_request_that_costs_more_than_is_left_is_refused_and_takes_nothing() -> None:
    team = key(tokens_per_minute=600, requests_per_minute=10)
    limits = KeyLimits([team])
    limits.admit(team, "m", chat(max_tokens=489), 0.0)
    error = refused(limits, team, 0.0, facts=chat(max_tokens=100))
    assert (error.kind, error.retry_after) == (ErrorKind.RATE_LIMITED, pytest.approx(1.1))
    assert error.headers["x-ratelimit-remaining-requests"] == "9"
    assert error.headers["x-ratelimit-remaining-tokens"] == "100"
    limits.admit(team, "m", chat(max_tokens=80), 0.0)


def test_the_estimate_of_an_unbounded_answer_follows_the_keys_own_answers() -> None:
    team = key(tokens_per_minute=1_000_000)
    limits = KeyLimits([team])
    for _ in range(100):
        limits.settle(limits.admit(team, "m", chat(), 0.0), Usage(11, 20), None, 0.0)
    assert limits.admit(team, "m", chat(), 0.0).completion == pytest.approx(20, abs=1)


def test_headers_tell_each_limit_in_openais_words_and_the_ietfs() -> None:
    team = key(requests_per_minute=60, tokens_per_minute=6000, concurrency=4)
    limits = KeyLimits([team])
    headers = told(limits.admit(team, "m", chat(max_tokens=589), 0.0))
    assert headers == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "5400",
        "x-ratelimit-reset-tokens": "6s",
        "ratelimit-policy": '"requests";q=60;w=60, "tokens";q=6000;w=60, "concurrency";q=4;qu="concurrent-requests"',
        "ratelimit": '"requests";r=59;t=1, "tokens";r=5400;t=6',
        "ratelimit-limit": "6000",
        "ratelimit-remaining": "5400",
        "ratelimit-reset": "6",
    }


@pytest.mark.parametrize(("used", "reset"), [(1, "17ms"), (60, "1s"), (90, "1.5s"), (3600, "1m0s"), (3630, "1m0.5s")])
def test_reset_is_a_duration_as_openai_writes_it(used: int, reset: str) -> None:
    team = key(tokens_per_minute=3600)
    limits = KeyLimits([team])
    limits.settle(limits.admit(team, "m", PLAIN, 0.0), Usage(used, 0), None, 0.0)
    assert limits._states["team"].headers(0.0)["x-ratelimit-reset-tokens"] == reset


def test_a_key_without_limits_gets_no_headers() -> None:
    team = key()
    assert KeyLimits([team]).admit(team, "m", PLAIN, 0.0).headers == b""


def test_a_reload_keeps_what_was_used_unless_the_key_changed() -> None:
    team = key(requests_per_minute=1)
    limits = KeyLimits([team])
    limits.admit(team, "m", PLAIN, 0.0)
    assert refused(KeyLimits([team], limits), team, 0.0)
    changed = key(requests_per_minute=2)
    KeyLimits([changed], limits).admit(changed, "m", PLAIN, 0.0)


def test_a_request_under_way_is_settled_where_it_was_taken_after_a_reload() -> None:
    team = key(concurrency=1, tokens_per_minute=1000)
    limits = KeyLimits([team])
    grant = limits.admit(team, "m", chat(max_tokens=100), 0.0)
    after = KeyLimits([team], limits)
    limits.settle(grant, Usage(1, 1), None, 0.0)
    assert after.admit(team, "m", PLAIN, 0.0)


class Accounts(RuleBasedStateMachine):
    """Requests of one key come, end and fail in any order: nothing is let in beyond its limits, or lost."""

    @initialize()
    def start(self) -> None:
        self.key = key(requests_per_minute=30, tokens_per_minute=3000, concurrency=3)
        self.limits = KeyLimits([self.key])
        self.now = 0.0
        self.open: list[Grant] = []
        self.let_in = 0
        self.refusals: list[GatewayError] = []

    @rule(seconds=st.floats(0.01, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(tokens=st.integers(1, 5000))
    def ask(self, tokens: int) -> None:
        try:
            self.open.append(self.limits.admit(self.key, "m", chat(max_tokens=tokens), self.now))
            self.let_in += 1
        except GatewayError as error:
            self.refusals.append(error)

    @rule(data=st.data(), used=st.integers(0, 4000), kind=st.sampled_from(["usage", "stream", "whole", "failed"]))
    def end(self, data: st.DataObject, used: int, kind: str) -> None:
        if self.open:
            grant = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
            streamed = {"usage": None, "stream": used, "whole": None, "failed": -1}[kind]
            self.limits.settle(grant, Usage(used, 0) if kind == "usage" else None, streamed, self.now)

    @invariant()
    def within_bounds(self) -> None:
        if not hasattr(self, "open"):
            return
        assert self.limits._states["team"].in_flight == len(self.open) <= 3
        assert self.let_in <= 30 + self.now / 2
        assert all(error.kind is ErrorKind.RATE_LIMITED and error.retry_after for error in self.refusals)
        for name, value in self.limits._states["team"].headers(self.now).items():
            if re.match("x-ratelimit-(remaining|limit)", name):
                assert 0 <= int(value) <= 3000


TestAccounts = Accounts.TestCase
