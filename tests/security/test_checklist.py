"""The checklist of docs/security.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "security.md").read_text("utf-8"))


def test_the_checklist_names_tests() -> None:
    rows = re.findall(r"^\| .*`tests/.*\|$", (ROOT / "docs" / "security.md").read_text("utf-8"), re.MULTILINE)
    assert len(rows) == len(NAMED) > 40


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_test_that_the_checklist_names_exists(file: str, name: str) -> None:
    text = (ROOT / file).read_text("utf-8")
    assert re.search(rf"^(?:(?:async )?def {name}\(|{name} = )", text, re.MULTILINE), f"{file} has no {name}"
