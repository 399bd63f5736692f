"""The command `seawall`, run as a process."""

from __future__ import annotations

import signal

import pytest

from backends.workers.ports import base_url
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


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_supervised_worker_serves_and_drains(host: str) -> None:
    try:
        port = free_port(host)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    arguments = ["--model", "tide-mini", "--host", host, "--port", str(port)]
    with Process.python("-m", "gateway", "worker", "embedded", *arguments) as process:
        process.wait_ready(f"{base_url(host, port)}/health", 60)
        process.signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert "tide-mini | Serving tide-mini" in process.output
