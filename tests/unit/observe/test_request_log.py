from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from gateway.observe.request_log import RequestLog
from policies.outcome import ErrorKind
from tests.support.stories import story, tried

FAILED = ErrorKind.MODEL_OVERLOADED


def test_a_story_tells_every_attempt_in_order() -> None:
    failed = tried("llama-a", ErrorKind.OUT_OF_MEMORY, status=500, started=0.0015, ms=412.3456, tokens=7)
    answered = tried("small", fallback=True, why="fallback", started=0.414, ms=20.0, tokens=9)
    told = story("c-1", None, failed, answered).to_dict()
    assert json.loads(json.dumps(told)) == {
        "correlation_id": "c-1",
        "timestamp": "1970-01-01T00:00:00.000Z",
        "method": "POST",
        "path": "/v1/chat/completions",
        "route": "chat",
        "model": "tiny",
        "status": 200,
        "outcome": "ok",
        "duration_ms": 1.0,
        "attempts": [
            {
                "backend": "llama-a",
                "model": "tiny",
                "why": "primary",
                "outcome": "out_of_memory",
                "status": 500,
                "at_ms": 1.5,
                "ms": 412.346,
                "fallback": False,
                "tokens": 7,
                "tokens_wasted": 7,
            },
            {
                "backend": "small",
                "model": "tiny",
                "why": "fallback",
                "outcome": "ok",
                "status": 200,
                "at_ms": 414.0,
                "ms": 20.0,
                "fallback": True,
                "tokens": 9,
                "tokens_wasted": 0,
            },
        ],
    }


def test_failed_requests_outlive_a_flood_of_good_ones() -> None:
    log = RequestLog(capacity=3, failed_capacity=2)
    log.add(story("bad", FAILED))
    for number in range(10):
        log.add(story(f"good-{number}"))
    assert [found.correlation_id for found in log.find("bad")] == ["bad"]
    assert log.find("good-6") == []
    assert [found.correlation_id for found in log.recent(9)] == ["good-9", "good-8", "good-7"]
    assert [found.correlation_id for found in log.recent(9, failed=True)] == ["bad"]


def test_a_client_retry_under_the_same_id_shows_both() -> None:
    log = RequestLog()
    failed, good = story("same", FAILED), story("same")
    log.add(failed)
    assert log.find("same") == [failed]
    log.add(good)
    assert log.find("same") == [good, failed]


def test_what_a_client_wrote_is_kept_short() -> None:
    kept = story("c", path="/" + "p" * 100_000, model="m" * 100_000)
    assert len(kept.path) == 200
    assert len(kept.model or "") == 200


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=60), st.integers(1, 4), st.integers(1, 4))
def test_the_last_distinct_ids_are_found_and_no_others(
    requests: list[tuple[int, bool]], capacity: int, failed_capacity: int
) -> None:
    log = RequestLog(capacity, failed_capacity)
    for number, failed in requests:
        log.add(story(str(number), FAILED if failed else None))

    def last(numbers: list[int], limit: int) -> list[int]:
        return list(dict.fromkeys(reversed(numbers)))[:limit]

    recent = last([number for number, _ in requests], capacity)
    failures = last([number for number, failed in requests if failed], failed_capacity)
    assert [int(found.correlation_id) for found in log.recent(99)] == recent
    assert [int(found.correlation_id) for found in log.recent(99, failed=True)] == failures
    assert {number for number in range(9) if log.find(str(number))} == set(recent) | set(failures)
