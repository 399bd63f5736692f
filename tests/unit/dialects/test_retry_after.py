from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.retry_after import MAX_WAIT, retry_after

NOW = 1_767_225_600.0  # Thu, 01 Jan 2026 00:00:00 GMT
DATE = "Thu, 01 Jan 2026 00:00:30 GMT"

ROWS = [
    ({"retry-after": "7"}, 7.0),
    ({"retry-after": "0"}, 0.0),
    ({"retry-after": "1.5"}, 1.5),
    ({"retry-after": DATE}, 30.0),
    ({"retry-after": DATE, "date": "Thu, 01 Jan 2026 00:00:20 GMT"}, 10.0),
    ({"retry-after": DATE, "date": "nonsense"}, 30.0),
    ({"retry-after": "Wed, 31 Dec 2025 23:59:00 GMT"}, 0.0),
    ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
    ({"x-ms-retry-after-ms": "1500"}, 1.5),
    ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0),
    ({"retry-after": "99999999999"}, MAX_WAIT),
    ({"retry-after": "-3"}, None),
    ({"retry-after": "nan"}, None),
    ({"retry-after": "inf"}, None),
    ({"retry-after": "in a moment"}, None),
    ({"retry-after": ""}, None),
    ({}, None),
]


@pytest.mark.parametrize(("headers", "seconds"), ROWS)
def test_wait(headers, seconds):
    assert retry_after(headers, now=lambda: NOW) == seconds


@given(st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "date"]), st.text(max_size=60)))
def test_any_header_gives_a_bounded_wait_or_none(headers):
    wait = retry_after(headers, now=lambda: NOW)

    assert wait is None or 0 <= wait <= MAX_WAIT
