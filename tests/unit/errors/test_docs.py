"""docs/errors.md says of every kind what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.errors.kinds import CODE_MESSAGES, KINDS
from policies.outcome import ErrorKind

PAGE = (Path(__file__).parents[3] / "docs" / "errors.md").read_text(encoding="utf-8")
ROWS = {row[0]: row for row in re.findall(r"^\| `(\w+)` \| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)}


@pytest.mark.parametrize("kind", ErrorKind)
def test_every_kind_is_documented_with_its_status_and_retry_advice(kind):
    spec = KINDS[kind]

    _, status, _, _, retry = ROWS[kind.value]

    assert int(status) == spec.status
    assert retry.startswith("yes" if spec.is_retryable else "no")
    if spec.retry_after is not None:
        assert f"{spec.retry_after:g} s" in retry


def test_no_kind_is_documented_that_does_not_exist():
    assert set(ROWS) == {kind.value for kind in ErrorKind}


SOURCES = Path(__file__).parents[3] / "gateway"
OWN_CODES = {code for path in SOURCES.rglob("*.py") for code in re.findall(r'\bcode="(\w+)"', path.read_text("utf-8"))}


@pytest.mark.parametrize("code", sorted({*CODE_MESSAGES, *OWN_CODES}))
def test_every_code_of_its_own_is_documented(code):
    assert f"`{code}`" in PAGE
