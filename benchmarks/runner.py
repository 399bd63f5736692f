"""Starts subjects and loads, each on its core, and measures."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import proctree
from benchmarks.subjects import Subject

#: The gateway alone on one core, backend and load on the other; both the same where there is only one.
_CORES = sorted(os.sched_getaffinity(0))
GATEWAY_CORE, LOAD_CORE = _CORES[0], _CORES[-1]
_ROOT = Path(__file__).parent.parent
_START_LIMIT = 90.0
_LOAD_LIMIT = 30.0  # seconds beyond the load's own
_BODY = {"model": "bench", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


class SubjectError(Exception):
    """A subject that does not start, or does not answer."""


@dataclass(slots=True)
class Running:
    """A started subject. `headers` are what it wants of its clients; `cold_start` is in seconds, from the start of its
    process to its first good answer."""

    subject: Subject
    pid: int
    port: int
    headers: list[str]
    cold_start: float

    def load(self, seconds: float, **options: Any) -> dict[str, Any]:
        """One load on the other core; `options` are those of `benchmarks.load`."""
        return load(self.port, seconds, tree=self.pid, path=self.subject.path, header=self.headers, **options)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def load(port: int, seconds: float, **options: Any) -> dict[str, Any]:
    """Runs `benchmarks.load` against a port."""
    command = [sys.executable, "-m", "benchmarks.load", "--port", str(port), "--seconds", str(seconds)]
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            command += [f"--{name}", str(one)]
    limit, pinned = seconds + _LOAD_LIMIT, _pinned(LOAD_CORE, command)
    try:
        done = subprocess.run(pinned, cwd=_ROOT, env=_env(), capture_output=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise SubjectError(f"the load did not come to its end within {limit:g} s") from None
    if done.returncode:
        raise SubjectError(done.stderr.decode()[-300:])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextlib.contextmanager
def mock() -> Iterator[int]:
    """The backend; gives its port."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.mock", str(port)]
    with _process(_pinned(LOAD_CORE, command), subprocess.DEVNULL, {}) as process:
        _await_answer(port, process, Subject("mock", lambda *_: []).path)
        yield port


@contextlib.contextmanager
def running(
    subject: Subject,
    backend: int,
    command: list[str] | None = None,
    port: int | None = None,
    headers: Sequence[str] = (),
) -> Iterator[Running]:
    """A subject in front of the backend, which wants these headers of its clients. Raises SubjectError."""
    port = port or free_port()
    with tempfile.TemporaryDirectory() as work:
        log = Path(work, "output")
        command = command or subject.command(Path(work), port, backend)
        with log.open("wb") as output:
            began = time.perf_counter()
            with _process(_pinned(GATEWAY_CORE, command), output, subject.env) as process:
                wanted = [*subject.headers(backend), *headers]
                try:
                    _await_answer(port, process, subject.path, wanted)
                except SubjectError as error:
                    raise SubjectError(f"{error}: {log.read_bytes()[-300:].decode(errors='replace')}") from None
                yield Running(subject, process.pid, port, wanted, time.perf_counter() - began)


def _pinned(core: int, command: list[str]) -> list[str]:
    return ["taskset", "-c", str(core), *command]


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(_ROOT)}


@contextlib.contextmanager
def _process(command: list[str], output: Any, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """taskset execs, so the process's id is the subject's own. Its whole session is ended."""
    process = subprocess.Popen(
        command, cwd=_ROOT, env=_env() | env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        yield process
    finally:
        pids = proctree.tree(process.pid)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
        process.wait()


def _await_answer(port: int, process: subprocess.Popen[bytes], path: str, wanted: Sequence[str] = ()) -> None:
    headers = dict(header.split(": ", 1) for header in wanted)
    url = f"http://127.0.0.1:{port}{path}"
    request = urllib.request.Request(url, json.dumps(_BODY).encode(), {"Content-Type": "application/json", **headers})
    until = time.monotonic() + _START_LIMIT
    said = "no answer"
    while time.monotonic() < until:
        if process.poll() is not None:
            raise SubjectError(f"ended with {process.returncode}")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                if answer.status == 200 and b"choices" in answer.read():
                    return
        except OSError as error:
            said = str(error)
        time.sleep(0.01)
    raise SubjectError(said)
