"""The demo, started once for all tests that use it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.demo import Demo, running_demo


@pytest.fixture(scope="session")
def demo() -> Iterator[Demo]:
    with running_demo() as demo:
        yield demo
