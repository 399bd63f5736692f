"""The demo, started once for all tests that use it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.demo import Demo, running_demo
from tests.support.figures import Figures
from tests.support.sdks import install as install_sdks
from tests.support.vllm.install import Installed, install


@pytest.fixture(scope="session")
def demo() -> Iterator[Demo]:
    with running_demo() as demo:
        yield demo


@pytest.fixture(scope="session")
def installed() -> Installed:
    """vLLM's CPU build and a tiny model; installed the first time."""
    return install()


@pytest.fixture(scope="session")
def sdks() -> Path:
    """The interpreter that has the client libraries; installed the first time."""
    return install_sdks()


@pytest.fixture(scope="session")
def figures() -> Figures:
    return Figures()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if Figures.lines:
        terminalreporter.section("figures")
        for line in Figures.lines:
            terminalreporter.write_line(line)
