"""`seawall explain`."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.config import load_text
from gateway.explain import explain

CONFIG = """
backends:
  a: {url: "http://127.0.0.1:9001", kind: vllm}
  b: {url: "http://127.0.0.1:9002", kind: vllm}
  small: {url: "http://127.0.0.1:9003", kind: vllm, model: little}
routes: [{model: "llama*", backends: [a, b], fallback: [small]}]
policies: {default: {retry: {attempts: 2}}}
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "gateway.yaml"
    file.write_text(CONFIG)
    return str(file)


def told(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["explain", *arguments])
    return result.exit_code, result.output


def test_it_tells_route_tiers_and_attempts_in_order(path: str) -> None:
    code, text = told("llama-3", "--config", path)
    assert code == 0
    assert "route 'llama*' takes 'llama-3' (policy default, balance least_load)" in text
    attempts = [line.strip() for line in text.splitlines() if line.strip()[:2] in ("1.", "2.", "3.")]
    assert {attempts[0][3:], attempts[1][3:]} & {"a: first choice", "b: first choice"}
    assert attempts[1].endswith("untried endpoint of the tier")
    assert attempts[2] == "3. small: next tier"
    assert "wait 10s at most" in text


def test_it_tells_what_would_be_if_endpoints_were_down(path: str) -> None:
    _, text = told("llama-3", "--config", path, "--down", "a")
    assert "a as 'llama-3': down (as asked)" in text
    assert "1. b: first choice" in text
    _, text = told("llama-3", "--config", path, "--down", "a", "--down", "b")
    assert "1. small: next tier" in text
    _, text = told("llama-3", "--config", path, "--down", "a", "--down", "b", "--down", "small")
    assert "none: nothing can be asked" in text


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        ({"healthy": False, "message": "connection refused"}, "down (connection refused)"),
        ({"service": "draining"}, "draining (by an operator)"),
        ({"breaker": "open", "retry_after": 8.0}, "ejected (circuit open)"),
        ({"retry_after": 2.04}, "busy (to be asked again in 2s)"),
        ({"in_flight": 4, "limit": 4}, "busy (at its limit)"),
    ],
)
async def test_an_endpoint_that_is_not_asked_now_is_passed_over_and_says_why(
    shown: dict[str, object], words: str
) -> None:
    well = {"healthy": True, "service": "active", "breaker": "closed", "retry_after": None, "in_flight": 3, "limit": 4}
    text = await explain(load_text(CONFIG), "llama-3", seen={"a": well | shown, "b": well, "small": well})
    assert f"a as 'llama-3': {words}, b as 'llama-3': up" in text
    assert "1. b: first choice" in text
    assert ". a: " not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["lama-3"], "no route takes the model 'lama-3'"), (["llama-3", "--down", "smal"], "did you mean 'small'")],
)
def test_names_that_do_not_exist_are_errors(path: str, arguments: list[str], words: str) -> None:
    code, text = told(*arguments, "--config", path)
    assert code == 2
    assert words in text
