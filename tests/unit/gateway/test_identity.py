"""Correlation IDs, trace context and API keys."""

from __future__ import annotations

import hashlib
import random
import re
import timeit
import uuid
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity import (
    ApiKey,
    KeyRing,
    TrustedProxies,
    correlation_id,
    given_traceparent,
    new_correlation_id,
    new_traceparent,
    trace_id,
)

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
    assert given_traceparent({b"traceparent": value}) is None


def test_a_valid_trace_context_is_kept() -> None:
    assert given_traceparent({b"traceparent": TRACE}) == TRACE


def test_a_made_trace_context_carries_the_correlation_id_when_it_can() -> None:
    own = "94e6ca5d-717b-42ca-924c-4e8419bb8953"
    assert new_traceparent(own, bits) == f"00-{own.replace('-', '')}-0000000000abcdef-01".encode()


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


def test_a_key_is_found_as_fast_among_ten_thousand_as_among_ten() -> None:
    def seconds(ring: KeyRing) -> float:
        headers = {b"authorization": b"Bearer key-7"}
        return min(timeit.repeat(lambda: ring.find(headers), number=2000, repeat=7))

    def ring(size: int) -> KeyRing:
        return KeyRing(
            (hashlib.sha256(b"key-%d" % n).digest(), key(f"team-{n}", models=(f"m{n}*",))) for n in range(size)
        )

    small, large = ring(10), ring(10_000)
    assert large.find({b"x-api-key": b"key-9999"}) == key("team-9999", models=("m9999*",))
    assert seconds(large) < 3 * seconds(small)


@pytest.mark.parametrize(
    "presented",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer\tsecret",
        b"secret",
        b"Bearer secret, Bearer secret",
        b"Bearer \xff\xfe",
        b"," * 9,
    ],
)
def test_a_malformed_credential_is_no_key(presented: bytes) -> None:
    ring = KeyRing([(hashlib.sha256(b"secret").digest(), key("team")), (bytes(32), key("zero"))])
    assert ring.find({b"authorization": presented}) is None


@given(st.dictionaries(st.sampled_from([b"authorization", b"x-api-key"]), st.binary(max_size=64)))
def test_no_bytes_make_a_key_or_break_the_search(headers: dict[bytes, bytes]) -> None:
    ring = KeyRing([(hashlib.sha256(b"a secret that no one guesses").digest(), key("team"))])
    assert ring.find(headers) is None


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", b"203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", b"127.0.0.1, 203.0.113.9", "203.0.113.9"),  # what the client wrote itself is not believed
        ("10.0.0.1", b"203.0.113.9, 10.0.0.2", "203.0.113.9"),  # two proxies of ours
        ("10.0.0.1", b"203.0.113.9:4711", "203.0.113.9"),
        ("10.0.0.1", b"[2001:db8::1]:4711", "2001:db8::1"),
        ("10.0.0.1", b"2001:db8::1", "2001:db8::1"),
        ("10.0.0.1", b"unknown", "10.0.0.1"),
        ("10.0.0.1", b"203.0.113.9, <script>", "10.0.0.1"),
        ("10.0.0.1", b"fe80::1%any text", "10.0.0.1"),
        ("10.0.0.1", b"", "10.0.0.1"),
        ("10.0.0.1", b",,,", "10.0.0.1"),
        ("::ffff:10.0.0.1", b"203.0.113.9", "203.0.113.9"),
        ("198.51.100.7", b"127.0.0.1", "198.51.100.7"),  # not one of ours
        ("unix", b"127.0.0.1", "unix"),
        ("10.0.0.1", b"10.0.0.3, 10.0.0.2", "10.0.0.3"),
    ],
)
def test_only_trusted_proxies_are_believed_about_the_client(peer: str, forwarded: bytes | None, client: str) -> None:
    proxies = TrustedProxies(["10.0.0.0/8", "fd00::/8"])
    headers = {} if forwarded is None else {b"x-forwarded-for": forwarded}
    assert proxies.client(peer, headers) == client


@given(st.binary(max_size=200))
def test_a_forwarded_address_is_an_address_whatever_was_written(value: bytes) -> None:
    ip_address(TrustedProxies(["10.0.0.0/8"]).client("10.0.0.1", {b"x-forwarded-for": value}))
