"""Compressed request bodies."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.validation.content_encoding import decoded
from gateway.validation.errors import InvalidRequest
from policies.outcome import ErrorKind

LIMIT = 1000
BODY = b'{"model": "tiny"}'


@pytest.mark.parametrize(
    ("coding", "sent"),
    [
        ("gzip", gzip.compress(BODY, mtime=0)),
        (" GZIP ", gzip.compress(BODY, mtime=0)),
        ("x-gzip", gzip.compress(BODY, mtime=0)),
        ("deflate", zlib.compress(BODY)),
        ("identity", BODY),
        ("", BODY),
    ],
)
def test_a_known_coding_is_undone(coding: str, sent: bytes) -> None:
    assert decoded(sent, coding, LIMIT) == BODY


@pytest.mark.parametrize(
    ("coding", "sent", "kind", "said"),
    [
        ("br", BODY, ErrorKind.INVALID_INPUT, "must be gzip, deflate or identity"),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY, mtime=0), mtime=0), ErrorKind.INVALID_INPUT, "must be gzip"),
        ("gzip", BODY, ErrorKind.INVALID_INPUT, "not what its Content-Encoding says (gzip)"),
        ("gzip", gzip.compress(BODY, mtime=0)[:-6], ErrorKind.INVALID_INPUT, "cut short"),
        ("gzip", gzip.compress(BODY, mtime=0) + b"more", ErrorKind.INVALID_INPUT, "behind its end"),
        ("gzip", b"", ErrorKind.INVALID_INPUT, "cut short"),
        ("gzip", gzip.compress(bytes(50_000_000), mtime=0), ErrorKind.PAYLOAD_TOO_LARGE, "larger than 1000 bytes"),
    ],
)
def test_what_cannot_be_undone_is_refused(coding: str, sent: bytes, kind: ErrorKind, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decoded(sent, coding, LIMIT)
    assert caught.value.kind is kind
    assert said in str(caught.value.message)


@given(st.binary(max_size=2 * LIMIT))
def test_bodies_up_to_the_limit_come_whole_and_no_larger_ones(body: bytes) -> None:
    if len(body) <= LIMIT:
        assert decoded(gzip.compress(body, mtime=0), "gzip", LIMIT) == body
    else:
        with pytest.raises(InvalidRequest):
            decoded(gzip.compress(body, mtime=0), "gzip", LIMIT)
