"""Faults on purpose: what a game day looks like to clients and operators."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

import pytest

from gateway.config.check import check_file
from tests.integration.test_resilience import POLICY, stack
from tests.support.counting_model import count_text


async def test_aborted_attempts_never_reach_the_backend_and_are_hidden_like_any_other_failure() -> None:
    async with stack(policy=POLICY + "    fault: {abort: 0.3, status: 503}\n") as (gateway, backends):
        answers = [await gateway.chat() for _ in range(40)]
        good = [answer for answer in answers if answer.status == 200]
        assert len(good) > 30
        assert {answer.text for answer in good} == {count_text(1, 8)}
        numbers = gateway.gateway.metrics.route("tiny")
        assert 5 <= numbers.faults["abort"] <= 40
        asked = sum(len(list(backend.log.to("/v1/chat/completions"))) for backend in backends)
        assert asked == sum(int(answer.headers["x-seawall-attempts"]) for answer in answers) - numbers.faults["abort"]
        assert b'seawall_faults_injected_total{route="tiny",fault="abort"}' in (await gateway.get("/metrics")).body


@pytest.mark.parametrize(("status", "kind"), [(500, "generation_failed"), (503, "model_overloaded")])
async def test_an_injected_fault_is_the_error_that_its_status_means_and_no_breaker_counts_it(
    status: int, kind: str
) -> None:
    fault = f"    fault: {{abort: 1, status: {status}}}\n"
    async with stack(primaries=1, policy=POLICY + fault) as (gateway, (backend,)):
        for _ in range(10):
            assert (await gateway.chat()).error["error_type"] == kind
        assert gateway.gateway.runtime.endpoints["b0"].breaker.sound
        assert not list(backend.log.to("/v1/chat/completions"))


async def test_a_delayed_attempt_is_late_as_a_slow_backend_is_and_can_be_hedged() -> None:
    policy = POLICY.replace("first_token: 300ms", "first_token: 3s") + "    fault: {delay: 150ms}\n"
    async with stack(primaries=1, policy=policy) as (gateway, _):
        started = monotonic()
        answer = await gateway.chat()
        assert answer.text == count_text(1, 8)
        assert monotonic() - started >= 0.15
        assert float(answer.headers["x-seawall-overhead-ms"]) < 100
        assert gateway.gateway.metrics.route("tiny").faults == {"abort": 0, "delay": 1}
    async with stack(policy=policy + "    hedge: {after: 20ms, budget: 1}\n") as (gateway, _):
        assert (await gateway.chat()).headers["x-seawall-attempts"] == "2"


@pytest.mark.parametrize(
    "written", ["{}", "{abort: 0, delay: 0s}", "{delay: 2s, share: 0}", "{abort: 1.5}", "{status: 200}"]
)
def test_check_refuses_faults_that_make_no_sense_and_warns_of_the_others(tmp_path: Path, written: str) -> None:
    base = "backends: {a: {url: 'http://127.0.0.1:9'}}\nroutes: [{model: m, backends: [a]}]\n"
    path = tmp_path / "gateway.yaml"
    path.write_text(base + f"policies: {{default: {{fault: {written}}}}}\n")
    assert any("fault" in problem.path for problem in check_file(path).problems)
    path.write_text(base + "policies: {default: {fault: {abort: 0.1}}}\n")
    report = check_file(path)
    assert not report.problems
    assert any("faults are injected on purpose" in warning.message for warning in report.warnings)
