from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from backends.dialect import ResponseHead
from backends.registry import dialect_for
from policies.outcome import ErrorKind, Failure

JSON = {"content-type": "application/json"}
CHAT = "/v1/chat/completions"


def _bytes(body: str | bytes | Mapping[str, Any]) -> bytes:
    if isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


@pytest.fixture
def judge() -> Callable[..., Failure | None]:
    """judge(kind, status, body, headers=JSON, path=CHAT) -> Failure | None; a mapping as body becomes JSON."""

    def judged(
        kind: str, status: int, body: str | bytes | Mapping[str, Any], headers: Any = None, path: str = CHAT
    ) -> Failure | None:
        head = ResponseHead(status, JSON if headers is None else headers)
        return dialect_for(kind).classify(path, head, _bytes(body))

    return judged


@pytest.fixture
def check() -> Callable[[Failure | None, ErrorKind, Mapping[str, Any]], None]:
    """check(failure, kind, facts): facts name attributes of the failure or keys of its details."""

    def checked(failure: Failure | None, kind: ErrorKind, facts: Mapping[str, Any]) -> None:
        assert failure is not None, f"taken for a good answer instead of {kind}"
        assert failure.kind is kind, failure
        for name, expected in facts.items():
            found = getattr(failure, name) if name in Failure.__slots__ else failure.details.get(name)
            assert found == expected, (name, failure)

    return checked
