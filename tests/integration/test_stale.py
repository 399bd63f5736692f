"""`stale_if_error` over real sockets."""

from __future__ import annotations

import pytest

from tests.integration.test_admission import KEYS
from tests.integration.test_resilience import POLICY, stack
from tests.support.counting_model import count_text

STALE = POLICY + "    stale_if_error: {ttl: 1h}\n"


async def test_when_everything_fails_the_earlier_answer_to_the_same_request_comes_and_says_so() -> None:
    async with stack(policy=STALE) as (gateway, backends):
        fresh = await gateway.chat(temperature=0)
        for backend in backends:
            backend.inject("internal_error")
        stale = await gateway.chat(temperature=0)
        assert stale.status == 200
        assert stale.body == fresh.body
        assert stale.text == count_text(1, 8)
        assert stale.headers["x-seawall-stale"] == "true"
        assert stale.headers["content-type"] == fresh.headers["content-type"]
        assert stale.headers["x-seawall-backend"] == fresh.headers["x-seawall-backend"]
        assert stale.headers["x-correlation-id"] != fresh.headers["x-correlation-id"]
        assert int(stale.headers["x-seawall-attempts"]) >= 2
        assert "generation_failed" in stale.headers["x-seawall-warning"]
        assert "x-seawall-stale" not in fresh.headers
        assert b'seawall_stale_answers_total{route="tiny"} 1' in (await gateway.get("/metrics")).body


@pytest.mark.parametrize(
    "changed",
    [{"temperature": 0, "max_tokens": 7}, {"temperature": 0, "messages": [{"role": "user", "content": "other"}]}, {}],
)
async def test_another_request_and_one_that_is_sampled_gets_the_error(changed: dict[str, object]) -> None:
    async with stack(primaries=1, policy=STALE) as (gateway, (backend,)):
        await gateway.chat(temperature=0)
        await gateway.chat()
        backend.inject("internal_error")
        assert (await gateway.chat(**changed)).status == 502  # type: ignore[arg-type]


async def test_no_caller_gets_what_another_one_was_told() -> None:
    async with stack(primaries=1, policy=STALE, extra=KEYS) as (gateway, (backend,)):
        low, high = ({"Authorization": f"Bearer sk-{name}"} for name in ("low", "high"))
        await gateway.chat(temperature=0, headers=low)
        backend.inject("internal_error")
        assert (await gateway.chat(temperature=0, headers=high)).status == 502
        assert (await gateway.chat(temperature=0, headers=low)).headers["x-seawall-stale"] == "true"


async def test_a_clients_own_mistake_is_told_and_nothing_is_kept_without_a_ttl() -> None:
    async with stack(primaries=1, policy=STALE) as (gateway, (backend,)):
        await gateway.chat(temperature=0)
        backend.inject("context_length")
        assert (await gateway.chat(temperature=0)).status == 400
    async with stack(primaries=1) as (gateway, (backend,)):
        await gateway.chat(seed=7)
        backend.inject("internal_error")
        assert (await gateway.chat(seed=7)).status == 502


async def test_the_native_answer_is_made_anew_from_the_kept_one() -> None:
    async with stack(primaries=1, policy=STALE) as (gateway, (backend,)):
        asked = {"model": "tiny", "prompt": "count", "max_tokens": 8, "seed": 1}
        fresh = await gateway.post("/generate", asked)
        backend.inject("internal_error")
        stale = await gateway.post("/generate", asked)
        assert stale.json["generated_text"] == fresh.json["generated_text"]
        assert stale.json["correlation_id"] == stale.headers["x-correlation-id"]
        assert "earlier answer" in stale.json["warning"]
