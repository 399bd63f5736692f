"""Who may read the operators' endpoints and who may act through them."""

from __future__ import annotations

import base64
import hashlib

import pytest
from multidict import CIMultiDict
from pydantic import SecretStr

from gateway.admin.access import may_act, may_read, plain_name
from gateway.errors.taxonomy import GatewayError
from policies.outcome import ErrorKind

KEY = SecretStr("operator-secret")
DIGEST = SecretStr(f"sha256:{hashlib.sha256(b'operator-secret').hexdigest()}")
HERE, AWAY = "127.0.0.1", "203.0.113.9"
LOCAL = {"Host": "127.0.0.1:8080"}
BEARER = {"Authorization": "Bearer operator-secret"}
BASIC = {"Authorization": "Basic " + base64.b64encode(b"ada:operator-secret").decode()}
JSON = {"Content-Type": "application/json"}
DENIED, NOBODY, INVALID = ErrorKind.PERMISSION_DENIED, ErrorKind.AUTHENTICATION_FAILED, ErrorKind.INVALID_INPUT


def ask(decide, headers, peer, key):  # type: ignore[no-untyped-def]
    """(by whom, or the error's kind)."""
    try:
        return decide(CIMultiDict(headers), peer, key).by
    except GatewayError as error:
        return error.kind


@pytest.mark.parametrize(
    ("headers", "peer", "key", "expected"),
    [
        (LOCAL, HERE, None, "loopback"),
        (LOCAL, "::1", None, "loopback"),
        (LOCAL, "::ffff:127.0.0.1", None, "loopback"),
        ({"Host": "localhost"}, HERE, None, "loopback"),
        ({"Host": "gateway:8080"}, HERE, None, "loopback"),
        ({"Host": "rebound.example."}, HERE, None, DENIED),
        ({"Host": "[::1]:8080"}, HERE, None, "loopback"),
        (LOCAL, HERE, KEY, "loopback"),
        (LOCAL, AWAY, None, DENIED),
        (LOCAL, AWAY, KEY, NOBODY),
        (LOCAL | BEARER, AWAY, KEY, "key"),
        (LOCAL | BEARER, AWAY, DIGEST, "key"),
        (LOCAL | BASIC, AWAY, KEY, "key"),
        (LOCAL | {"X-API-Key": "operator-secret"}, AWAY, KEY, "key"),
        (LOCAL | {"Authorization": "Bearer wrong"}, AWAY, KEY, NOBODY),
        (LOCAL | {"Authorization": "Basic ???"}, AWAY, KEY, NOBODY),
        (LOCAL | {"X-Forwarded-For": HERE}, HERE, None, DENIED),
        (LOCAL | {"Forwarded": "for=127.0.0.1"}, HERE, KEY, NOBODY),
        ({"Host": "rebound.example"}, HERE, None, DENIED),
        ({"Host": "127.0.0.1.example:8080"}, HERE, None, DENIED),
        (LOCAL | {"Via": "1.1 proxy"}, HERE, None, DENIED),
        (LOCAL | {"Sec-Fetch-Site": "cross-site"}, HERE, None, DENIED),
        ({"Host": "gateway.example"} | BEARER, HERE, KEY, "key"),
    ],
)
def test_reading_needs_the_key_or_this_machine_under_its_own_name(headers, peer, key, expected):  # type: ignore[no-untyped-def]
    assert ask(may_read, headers, peer, key) == expected


@pytest.mark.parametrize(
    ("headers", "peer", "key", "expected"),
    [
        (LOCAL | JSON, HERE, None, "loopback"),
        (LOCAL | {"Content-Type": "application/json; charset=utf-8"}, HERE, None, "loopback"),
        (LOCAL | JSON, HERE, KEY, NOBODY),
        (LOCAL | JSON | BEARER, HERE, KEY, "key"),
        (LOCAL | JSON | BASIC, AWAY, KEY, "key"),
        (LOCAL, HERE, None, INVALID),
        (LOCAL | {"Content-Type": "text/plain"}, HERE, None, INVALID),
        (LOCAL | {"Content-Type": "application/x-www-form-urlencoded"}, HERE, None, INVALID),
        (LOCAL | JSON | {"Origin": "http://127.0.0.1:8080"}, HERE, None, "loopback"),
        (LOCAL | JSON | {"Origin": "https://evil.example"}, HERE, None, DENIED),
        (LOCAL | JSON | {"Origin": "null"}, HERE, None, DENIED),
        (LOCAL | JSON | {"Sec-Fetch-Site": "cross-site"}, HERE, None, DENIED),
        (LOCAL | JSON | {"Sec-Fetch-Site": "same-site"}, HERE, None, DENIED),
        (LOCAL | JSON | {"Sec-Fetch-Site": "same-origin"}, HERE, None, "loopback"),
        (LOCAL | JSON | BASIC | {"Origin": "https://evil.example"}, AWAY, KEY, DENIED),
        ({"Host": "rebound.example", "Origin": "http://rebound.example"} | JSON, HERE, None, DENIED),
    ],
)
def test_an_act_needs_the_key_where_there_is_one_and_never_comes_from_another_origin(headers, peer, key, expected):  # type: ignore[no-untyped-def]
    assert ask(may_act, headers, peer, key) == expected


def test_names_that_people_give_themselves_can_not_forge_log_lines() -> None:
    assert plain_name('ada\n{"event": "x"}') == "adaevent x"
    assert len(plain_name("a" * 500)) == 64
