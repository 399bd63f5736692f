"""What the servers tell of their load decides where requests go."""

from __future__ import annotations

import pytest

from tests.integration.test_resilience import stack
from tests.support.waiting import eventually


@pytest.mark.parametrize("balance", ["least_load", "p2c"])
@pytest.mark.parametrize(
    ("gauge", "value", "attribute"), [("num_requests_waiting", 3, "waiting"), ("kv_cache_usage_perc", 0.8, "kv_cache")]
)
async def test_a_server_with_a_queue_or_a_fuller_cache_is_spared(
    balance: str, gauge: str, value: float, attribute: str
) -> None:
    policy = f"policies: {{default: {{balance: {balance}}}}}\n"
    async with stack(policy=policy, health="interval: 100ms") as (gateway, (full, free)):
        full.gauges[gauge] = value
        await eventually(lambda: getattr(gateway.gateway.runtime.endpoints["b0"], attribute) == value)
        for _ in range(12):
            assert (await gateway.chat()).status == 200
        asked = [len(list(backend.log.to("/v1/chat/completions"))) for backend in (full, free)]
    assert asked == [0, 12]


async def test_conversations_stay_where_the_cache_of_their_beginning_is() -> None:
    async with stack(primaries=3, policy="policies: {default: {balance: prefix}}\n") as (gateway, _):
        met = []
        for topic in range(12):
            turns = [{"role": "system", "content": f"Topic {topic}"}, {"role": "user", "content": "Begin."}]
            served = set()
            for turn in range(3):
                served.add((await gateway.chat(messages=turns)).headers["x-seawall-backend"])
                turns = [
                    *turns,
                    {"role": "assistant", "content": "So."},
                    {"role": "user", "content": f"Go on, {turn}."},
                ]
            met.append(served)
    assert all(len(served) == 1 for served in met)
    assert set.union(*met) == {"b0", "b1", "b2"}
