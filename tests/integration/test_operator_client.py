"""What commands say of an address where no gateway answers."""

from __future__ import annotations

import asyncio

import pytest

from gateway.operator_client import CannotRead, get
from tests.security.test_rogue_backends import says
from tests.support.rogue import RogueBackend

_NO_SEAWALL = "what answers there is no Seawall"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (says(body=b'{"workers": []}'), _NO_SEAWALL),  # a supervisor's own /status
        (says(body=b"[]"), _NO_SEAWALL),
        (says(body=b"<html>"), _NO_SEAWALL),
        (says(body=b"\xff\xfe{"), _NO_SEAWALL),
        (b"-ERR unknown command\r\n", _NO_SEAWALL),  # Redis
        (says(b"Content-Length: 100\r\n", b"{", length=False), _NO_SEAWALL),
        (says(status=b"404 Not Found"), "HTTP 404"),
    ],
)
async def test_another_server_is_told_from_a_gateway(answer: bytes, told: str) -> None:
    async with RogueBackend() as other:
        other.says = answer
        with pytest.raises(CannotRead, match=told):
            await asyncio.to_thread(get, f"{other.url}/v1", "/status", member="endpoints")


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("http://[::1", None),
        ("http://host:port", None),
        ("http://127.0.0.1:1", "a\nb"),
    ],
)
def test_a_malformed_address_or_key_is_said(url: str, key: str | None) -> None:
    with pytest.raises(CannotRead, match="malformed"):
        get(url, "/status", key, member="endpoints")
