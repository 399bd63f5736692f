"""What several files share: the demo, started once, and what is installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.demo import Demo, running_demo
from tests.support import parts
from tests.support.figures import Figures
from tests.support.sdks import install as install_sdks
from tests.support.vllm.install import Installed, install


@pytest.fixture(scope="session")
def demo() -> Iterator[Demo]:
    with running_demo() as demo:
        yield demo


@pytest.fixture(scope="session")
def installed() -> Installed:
    """vLLM's CPU build and a tiny model."""
    return install()


@pytest.fixture(scope="session")
def sdks() -> Path:
    """The interpreter that has the client libraries."""
    return install_sdks()


@pytest.fixture(scope="session")
def promtool() -> str:
    """The path of promtool."""
    parts.debian("prometheus", there=lambda: shutil.which("promtool") is not None)
    return str(shutil.which("promtool"))


@pytest.fixture(scope="session")
def figures() -> Figures:
    return Figures()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if Figures.lines:
        terminalreporter.section("figures")
        for line in Figures.lines:
            terminalreporter.write_line(line)
