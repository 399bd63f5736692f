"""Real processes broken under load: no answer fails, is cut or is wrong while one good backend is left."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.chaos.__main__ import problems
from benchmarks.chaos.load import TOKENS, Load, Outcome
from benchmarks.chaos.runner import run, summary
from benchmarks.chaos.scenarios import BY_NAME, SCENARIOS
from benchmarks.chaos.subjects import BY_NAME as SUBJECTS
from tests.support.fault_backend import FaultBackend
from tests.support.faults import PRESETS
from tests.support.gateway import running_gateway

_QUICK = ("rst_stream",)


@pytest.mark.parametrize(
    "name", [name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BY_NAME]
)
async def test_clients_do_not_notice(name: str) -> None:
    scenario = BY_NAME[name]
    result = await run(SUBJECTS["seawall"], scenario)
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


async def test_an_answer_made_smaller_that_says_so_is_not_silent() -> None:
    async with FaultBackend() as backend:
        backend.inject(replace(PRESETS["oom"], times=1))
        text = f"backends: {{a: {{url: '{backend.url}', kind: vllm}}}}\nroutes: [{{model: tiny, backends: [a]}}]\n"
        async with running_gateway(text) as gateway:
            load = Load(f"{gateway.url}/v1/chat/completions", {}, rate=1000.0)
            await load.run(0.001)
    assert [outcome.verdict for outcome in load.outcomes] == ["reduced"]
