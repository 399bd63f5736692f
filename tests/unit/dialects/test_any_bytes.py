"""Whatever a backend sends, it is judged, never raised."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.dialect import ResponseHead
from backends.registry import DIALECTS, dialect_for
from backends.texts import MAX_EVIDENCE

WORDS = st.sampled_from(
    [
        "error",
        "message",
        "type",
        "code",
        "param",
        "detail",
        "choices",
        "finish_reason",
        "usage",
        "loc",
        "msg",
        "response",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=12,
)
BODIES = st.binary(max_size=300) | VALUES.map(lambda value: json.dumps(value).encode())
STATUSES = st.sampled_from([200, 204, 302, 400, 401, 404, 422, 429, 499, 500, 501, 503, 529, 599])


@pytest.mark.parametrize("kind", DIALECTS)
@given(body=BODIES, status=STATUSES)
def test_an_answer_is_judged(kind, body, status):
    failure = dialect_for(kind).classify("/v1/chat/completions", ResponseHead(status, {}), body)

    assert failure is not None or 200 <= status < 300
    if failure is not None:
        assert len(failure.evidence) <= MAX_EVIDENCE
        assert failure.status == status
        orjson.dumps(dict(failure.details))


@pytest.mark.parametrize("kind", DIALECTS)
@given(body=BODIES)
def test_a_frame_and_usage_are_judged(kind, body):
    dialect = dialect_for(kind)

    dialect.classify_frame(body)
    dialect.usage(body)


def test_an_unknown_kind_has_no_dialect():
    with pytest.raises(KeyError):
        dialect_for("nope")
