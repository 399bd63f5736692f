"""The command `seawall`, run as a process."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.processes import Process, free_port


def run(*arguments: str) -> tuple[int, str]:
    with Process.python("-m", "gateway", *arguments) as process:
        status = process.wait(60)
        return status, process.output


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ((), 2, "Usage"),
        (("--help",), 0, "serve"),
        (("serve", "--config", "nowhere.yaml"), 2, "nowhere.yaml"),
        (("check", "nowhere.yaml"), 1, "nowhere.yaml"),
        (("check", "gateway.yaml"), 0, "no errors"),
        (("schema",), 0, '"backends"'),
        (("nonsense",), 2, "No such command"),
        (("worker", "embedded", "--model", "nope"), 1, "invalid choice: 'nope'"),
        (("worker", "diffusers", "--", "--help"), 0, "--max-batch"),
        (("status", "http://127.0.0.1:1"), 1, "127.0.0.1:1"),
    ],
)
def test_commands_say_what_happened_and_exit_accordingly(arguments: tuple[str, ...], status: int, said: str) -> None:
    got, output = run(*arguments)
    assert said in output
    assert got == status
    assert "Traceback" not in output


def test_a_supervised_worker_serves_and_drains(tmp_path: Path) -> None:
    port = free_port()
    with Process.python("-m", "gateway", "worker", "embedded", "--model", "tide-mini", "--port", str(port)) as process:
        process.wait_ready(f"http://127.0.0.1:{port}/health", 60)
        process.signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert "tide-mini | Serving tide-mini" in process.output
