"""For all tests."""

from __future__ import annotations

import gc
import time

import pytest
from hypothesis import settings

from tests.support import parts

settings.register_profile("seawall", deadline=None)  # how long an example takes depends on who else uses the machine
settings.load_profile("seawall")

_begun = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--budget", type=float, help="seconds after which no test begins: what is left is skipped")


def pytest_collection_finish() -> None:
    """Takes what the imports and thousands of collected tests hold out of the collector's sight.

    Going through it all takes some half a second each time: longer than the time-outs that some tests set.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    budget = item.config.getoption("--budget")
    if budget is not None and time.monotonic() - _begun > budget:
        parts.missing.setdefault("time", f"{budget:g} s were over before {item.nodeid}")
        pytest.skip("out of time")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was skipped for want of something is no news that all is well."""
    if parts.missing:
        terminalreporter.section("MISSING: the tests that need these were skipped", red=True, bold=True)
        for name, reason in parts.missing.items():
            terminalreporter.write_line(f"{name}: {reason}")
