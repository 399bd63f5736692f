"""`seawall`, run as users run it: commands, exit codes, signals, reload, drain."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from gateway.cli import app
from tests.support.processes import FaultProcess, Process, free_port, occupied_port, status_of, wait_until
from tests.support.serving import Serving, gateway_yaml

SEAWALL = [str(Path(sys.executable).with_name("seawall"))]
MODULE = [sys.executable, "-m", "gateway"]


def run(command: list[str], *arguments: str, cwd: Path) -> tuple[int, str]:
    """Exit code and output of a command that ends by itself."""
    done = subprocess.run([*command, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def commands(group: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    """Every command and group below one."""
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, *path, name)


def test_every_command_of_the_contract_is_there_and_each_explains_itself() -> None:
    known = list(commands(typer.main.get_command(app)))
    for name in ("serve", "check", "schema", "demo", "status", "worker"):
        assert (name,) in known
    for name in ("vllm", "diffusers", "embedded"):
        assert ("worker", name) in known
    for command in known:
        result = CliRunner().invoke(app, [*command, "--help"])
        assert (result.exit_code, "Usage" in result.output) == (0, True), command


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["check", "absent.yaml"], 1),
        (["check", "good.yaml", "more.yaml"], 2),
        (["serve", "--config", "absent.yaml"], 2),
        (["serve", "--config", "bad.yaml"], 2),
        (["serve", "--config", "good.yaml", "--port", "text"], 2),
        (["serve", "--config", "good.yaml", "--port", "65536"], 2),
        (["status", "http://127.0.0.1:9"], 1),
        (["nonsense"], 2),
        (["serve", "--nonsense"], 2),
    ],
)
def test_exit_codes_of_what_cannot_be_done(
    arguments: list[str], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good.yaml").write_text(gateway_yaml("http://127.0.0.1:9"))
    (tmp_path / "bad.yaml").write_text("backends: {}\n")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == status, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_both_ways_to_call_it_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(gateway_yaml("http://127.0.0.1:9"))
    assert run(SEAWALL, "--version", cwd=tmp_path) == run(MODULE, "--version", cwd=tmp_path)
    status, output = run(SEAWALL, "check", "gateway.yaml", cwd=tmp_path)
    assert (status, "no errors" in output) == (0, True)


def test_a_taken_port_is_a_failure_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(gateway_yaml("http://127.0.0.1:9"))
    with occupied_port() as port:
        status, output = run(MODULE, "serve", "--port", str(port), cwd=tmp_path)
    assert status == 1
    assert f"127.0.0.1:{port}" in output


def models(url: str) -> list[str]:
    """The names that /v1/models lists."""
    with urllib.request.urlopen(url + "/v1/models", timeout=5) as answer:
        return [model["id"] for model in json.load(answer)["data"]]


def test_a_gateway_reloads_whole_or_not_at_all_shows_its_status_and_drains(tmp_path: Path) -> None:
    path, port = tmp_path / "gateway.yaml", free_port()
    with FaultProcess("--per-token", "0.05") as backend:
        one = gateway_yaml(backend, server="drain_delay: 0s")
        path.write_text(one)
        with Serving(path, port) as gateway:
            assert models(gateway.url) == ["tiny"]
            path.write_text(one.replace("model: tiny", "model: [tiny, second]"))
            gateway.signal(signal.SIGHUP)
            wait_until(lambda: models(gateway.url) == ["tiny", "second"], 10, "the reload by SIGHUP")
            path.write_text(one.replace("backends: [b0]", "backends: [gone]"))
            gateway.wait_for_line("reload_refused")
            assert models(gateway.url) == ["tiny", "second"]
            path.write_text(one)
            wait_until(lambda: models(gateway.url) == ["tiny"], 10, "the reload of a changed file")
            status, output = run(MODULE, "status", gateway.url, cwd=tmp_path)
            assert (status, "b0" in output, "closed" in output) == (0, True, True)
            assert_drains(gateway, port)


def assert_drains(gateway: Process, port: int) -> None:
    """A stream under way at SIGTERM ends whole, nobody new is let in, and the exit code is 0."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 20, "stream": True}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        received = answer.readline()
        reader = threading.Thread(target=lambda: rest.append(answer.read()))
        rest: list[bytes] = []
        gateway.terminate()
        reader.start()
        wait_until(lambda: status_of(f"http://127.0.0.1:{port}/livez") is None, 5, "the listener's end")
        assert reader.is_alive()
        reader.join(10)
    assert received.startswith(b"data: ")
    assert rest[0].endswith(b"data: [DONE]\n\n")
    assert gateway.wait(10) == 0
