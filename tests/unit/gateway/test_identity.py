"""Correlation IDs, trace context and API keys."""

from __future__ import annotations

import hashlib
import random
import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity import ApiKey, KeyRing, correlation_id, new_correlation_id, trace_id, traceparent

TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


def bits(_: int) -> int:
    return 0xABCDEF


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({b"x-correlation-id": b"one", b"x-request-id": b"two"}, "one"),
        ({b"x-request-id": b"two", b"traceparent": TRACE}, "two"),
        ({b"traceparent": TRACE}, TRACE_ID),
        ({b"x-correlation-id": b"A-Za-z0-9._:/+=-"}, "A-Za-z0-9._:/+=-"),
        ({b"x-correlation-id": b"a" * 128}, "a" * 128),
    ],
)
def test_the_first_name_that_the_client_gives_is_kept(headers: dict[bytes, bytes], expected: str) -> None:
    assert correlation_id(headers) == expected


@pytest.mark.parametrize("given_id", [b"a b", b"a\tb", b"\xff", b"a" * 129, b"<script>", b"", b"a\r\nb"])
def test_a_name_that_could_harm_is_replaced_by_a_uuid(given_id: bytes) -> None:
    assert uuid.UUID(correlation_id({b"x-correlation-id": given_id})).version == 4


@given(st.binary(max_size=200))
def test_whatever_the_client_sends_the_id_is_safe_in_headers_and_logs(value: bytes) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._:/+=-]{1,128}", correlation_id({b"x-correlation-id": value}))


def test_a_new_id_is_a_random_uuid() -> None:
    rng = random.Random(1)
    ids = {new_correlation_id(rng.getrandbits) for _ in range(100)}
    assert len(ids) == 100
    assert all(str(uuid.UUID(one)) == one and uuid.UUID(one).version == 4 for one in ids)


@pytest.mark.parametrize(
    "value",
    [
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        b"garbage",
    ],
)
def test_a_broken_trace_context_is_made_anew(value: bytes) -> None:
    assert trace_id({b"traceparent": value}) is None
    assert traceparent({b"traceparent": value}, "corr", bits) != value


def test_a_valid_trace_context_is_kept() -> None:
    assert traceparent({b"traceparent": TRACE}, "corr", bits) == TRACE


def test_a_made_trace_context_carries_the_correlation_id_when_it_can() -> None:
    own = "94e6ca5d-717b-42ca-924c-4e8419bb8953"
    assert traceparent({}, own, bits) == f"00-{own.replace('-', '')}-0000000000abcdef-01".encode()


def key(name: str, **limits: object) -> ApiKey:
    values = {"models": (), "priority": None, "requests_per_minute": None, "tokens_per_minute": None} | limits
    return ApiKey(name=name, concurrency=None, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({b"authorization": b"Bearer secret"}, True),
        ({b"authorization": b"bearer secret"}, True),
        ({b"x-api-key": b"secret"}, True),
        ({b"authorization": b"Bearer other"}, False),
        ({b"authorization": b"Basic secret"}, False),
        ({}, False),
    ],
)
def test_a_key_is_found_in_either_header(headers: dict[bytes, bytes], found: bool) -> None:
    ring = KeyRing([(hashlib.sha256(b"secret").digest(), key("team"))])
    assert (ring.find(headers) is not None) is found


def test_a_keys_models_are_globs() -> None:
    team = key("team", models=("llama*", "qwen-0.5b"))
    assert [team.allows(model) for model in ("llama-3", "qwen-0.5b", "qwen-7b")] == [True, True, False]
