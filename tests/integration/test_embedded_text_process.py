"""The text worker as a process of its own."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from backends.workers.embedded.__main__ import main


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def health(url: str) -> int:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_it_starts_answers_and_ends_on_sigterm() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = ["text", "--model", "tide-mini", "--port", str(port), "--served-model-name", "small"]
    command = [sys.executable, "-m", "backends.workers.embedded", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            deadline = time.monotonic() + 60
            while (status := health(url)) != 200:
                assert status in (0, 503)
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            body = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
            request = urllib.request.Request(
                f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert json.load(answer)["model"] == "small"
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
    assert output == f"Serving tide-mini on {url}\n"


@pytest.mark.parametrize("arguments", [["text", "--model", "nope"], ["text", "--max-num-seqs", "0"], []])
def test_wrong_usage_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_taken_port_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["text", "--model", "tide-mini", "--port", str(taken.getsockname()[1])]) == 1
    error = capsys.readouterr().err
    assert "address already in use" in error
    assert error.count("\n") == 1
