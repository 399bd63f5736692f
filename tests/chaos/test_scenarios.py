"""Real processes broken under load: no answer fails, is cut or is wrong while one good backend is left."""

from __future__ import annotations

import pytest

from benchmarks.chaos.__main__ import problems
from benchmarks.chaos.load import TOKENS, Outcome
from benchmarks.chaos.runner import run, summary
from benchmarks.chaos.scenarios import BY_NAME, SCENARIOS
from benchmarks.chaos.subjects import BY_NAME as SUBJECTS

_QUICK = ("rst_stream",)


@pytest.mark.parametrize(
    "name", [name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BY_NAME]
)
async def test_clients_do_not_notice(name: str) -> None:
    scenario = BY_NAME[name]
    result = await run(SUBJECTS["seawall"], scenario, rate=20.0)
    assert not problems(result, scenario), result


def test_a_silent_cut_an_error_and_a_wrong_answer_are_told_apart() -> None:
    outcomes = [
        Outcome(False, 0.0, "exact", 0.5, tokens=TOKENS),
        Outcome(True, 0.0, "silent", 0.4, tokens=10, why="cut"),
        Outcome(True, 0.0, "exact", 0.6, 0.2, TOKENS),
        Outcome(False, 0.0, "failed", 9.0, why="status 503"),
    ]
    seen = [{"tokens_sent": TOKENS, "state": "completed", "ended_at": 1.0}] * 6
    result = summary("seawall", SCENARIOS[0], outcomes, seen, healed=5.0)
    assert (result.unary_exact, result.streams_exact, result.silent) == (0.5, 0.5, 1)
    assert (result.stall, result.amplification, result.recovery) == (0.2, 1.5, 4.0)
    assert result.why == {"silent: cut": 1, "failed: status 503": 1}
    assert len(problems(result, SCENARIOS[0])) == 3
