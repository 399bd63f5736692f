"""What coverage-guided fuzzing runs (`make fuzz`): every seed and every input that ever broke something, each time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import TARGETS, cases, run, target
from tests.support import parts

CASES = [(name, number) for name in TARGETS for number in range(len(cases(name)))]


@pytest.mark.parametrize(("name", "number"), CASES)
def test_seeds_and_inputs_that_broke_something_hold_whole_and_cut_short(name: str, number: int) -> None:
    one, data = target(name), cases(name)[number]
    for end in {len(data), len(data) // 2, len(data) - 1, 1, 0}:
        one(data[:end])


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux" or sys.version_info >= (3, 14), reason="no wheel of atheris")
@pytest.mark.parametrize("name", TARGETS)
def test_coverage_guided_fuzzing_finds_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`SEAWALL_FUZZ` is how long, in seconds, for each target."""
    where = parts.folder("fuzz/packages", "atheris==3.0.0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*sys.path[:1], str(Path.cwd()), str(where)]))
    held, said = run(name, int(os.environ.get("SEAWALL_FUZZ", "20")))
    assert held, said[-5000:]
