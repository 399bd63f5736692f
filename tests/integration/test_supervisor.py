"""The supervisor with real processes: killed, crashing, hung, deaf to SIGTERM, orphaned."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil
import pytest

from backends.workers.supervisor import (
    RestartSettings,
    Supervisor,
    WorkerFailedError,
    WorkerSnapshot,
    WorkerSpec,
    WorkerState,
)
from policies.outcome import ErrorKind
from tests.support.processes import Process, alive, free_port, occupied_port, wait_until

SERVER = """
import http.server, signal, subprocess, sys, time
port, *flags = sys.argv[1:]
if "deaf" in flags:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "child" in flags:
    print("child", subprocess.Popen(["sleep", "600"]).pid, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if "loading" in flags else 200)
        self.end_headers()
    def log_message(self, *args): pass
class Server(http.server.ThreadingHTTPServer):
    allow_reuse_address = True
server = Server(("127.0.0.1", int(port)), Handler)
print("listening", flush=True)
server.serve_forever()
"""
QUICK = RestartSettings(initial=0.01, max=0.05, max_failures=2)


def spec(*flags: str, **changes: Any) -> WorkerSpec:
    port = free_port()
    values: dict[str, Any] = {
        "name": "w",
        "argv": [sys.executable, "-c", SERVER, str(port), *flags],
        "health_url": f"http://127.0.0.1:{port}/health",
        "ready_timeout": 20.0,
        "ready_poll": 0.02,
        "health_interval": 0.02,
        "grace": 5.0,
        "restart": QUICK,
    }
    return WorkerSpec(**values | changes)


def supervise(*specs: WorkerSpec, lines: list[str] | None = None, **options: Any) -> Supervisor:
    said = lines if lines is not None else []
    return Supervisor(specs, on_line=lambda name, line: said.append(f"{name}: {line}"), **options)


async def only(supervisor: Supervisor, condition: Callable[[WorkerSnapshot], object]) -> WorkerSnapshot:
    """The one worker's snapshot as soon as `condition` holds."""
    async with asyncio.timeout(20):
        return (await supervisor.wait_until(lambda every: bool(condition(every[0]))))[0]


def is_(*states: WorkerState) -> Callable[[WorkerSnapshot], bool]:
    return lambda snapshot: snapshot.state in states


async def gone(*pids: int) -> None:
    async with asyncio.timeout(10):
        await asyncio.to_thread(wait_until, lambda: not any(map(alive, pids)))


def child_pid(lines: Sequence[str]) -> int:
    return int(next(line.split("child ")[1] for line in lines if "child " in line))


async def test_killed_server_is_restarted_and_nothing_of_it_is_left() -> None:
    lines: list[str] = []
    async with supervise(spec("child"), lines=lines) as supervisor:
        first = await only(supervisor, is_(WorkerState.READY))
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        again = await only(supervisor, lambda now: now.state is WorkerState.READY and now.restarts == 1)
        assert again.pid != first.pid
        assert (again.exit_code, again.error_type) == (-9, None)
        assert again.last_error is not None
        assert "SIGKILL" in again.last_error
        await gone(first.pid, child_pid(lines))
    [stopped] = supervisor.snapshot()
    assert (stopped.state, stopped.pid, stopped.exit_code) == (WorkerState.STOPPED, None, -15)
    assert "w: listening" in lines


async def test_crash_loop_is_given_up_with_the_last_lines() -> None:
    states: list[WorkerState] = []
    crashing = spec(
        argv=[sys.executable, "-c", "print('loading shard 3'); raise SystemExit('ValueError: bad weights')"]
    )
    async with supervise(crashing, on_change=lambda now: states.append(now.state)) as supervisor:
        with pytest.raises(
            WorkerFailedError, match=r"worker w failed: exited with status 1: ValueError: bad weights\n"
        ):
            async with asyncio.timeout(20):
                await supervisor.wait_ready()
        [failed] = supervisor.snapshot()
    assert (failed.state, failed.error_type) == (WorkerState.FAILED, ErrorKind.MODEL_LOADING_FAILED)
    assert set(failed.last_lines) == {"loading shard 3", "ValueError: bad weights"}
    assert (states.count(WorkerState.STARTING), failed.restarts) == (3, 2)


async def test_loading_is_a_state_with_progress_and_ends_at_the_ready_timeout() -> None:
    seen: list[WorkerSnapshot] = []
    never = spec("loading", ready_timeout=1.5, restart=RestartSettings(max_failures=0))
    async with supervise(never, on_change=seen.append) as supervisor:
        failed = await only(supervisor, is_(WorkerState.FAILED))
    assert failed.last_error == "not ready within 1.5 s; last line: listening"
    loading = [one for one in seen if one.state is WorkerState.LOADING]
    assert len(loading) == 2  # on entering it, and after a second
    assert {one.error_type for one in loading} == {ErrorKind.MODEL_LOADING}


async def test_server_deaf_to_sigterm_is_killed_after_its_grace() -> None:
    lines: list[str] = []
    async with supervise(spec("deaf", "child", grace=0.3), lines=lines) as supervisor:
        ready = await only(supervisor, is_(WorkerState.READY))
        started = time.monotonic()
        await supervisor.stop()
        took = time.monotonic() - started
    assert 0.3 <= took < 3
    assert supervisor.snapshot()[0].exit_code == -9
    assert ready.pid is not None
    await gone(ready.pid, child_pid(lines))


async def test_cancelled_stop_kills_at_once() -> None:
    async with supervise(spec("deaf", grace=600)) as supervisor:
        ready = await only(supervisor, is_(WorkerState.READY))
        stopping = asyncio.create_task(supervisor.stop())
        await only(supervisor, is_(WorkerState.STOPPING))
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
    assert ready.pid is not None
    await gone(ready.pid)


async def test_frozen_server_is_unhealthy_then_restarted() -> None:
    states: list[WorkerState] = []
    frozen = spec(health_timeout=0.2, health_failures=2, grace=0.1)
    async with supervise(frozen, on_change=lambda now: states.append(now.state)) as supervisor:
        ready = await only(supervisor, is_(WorkerState.READY))
        assert ready.pid is not None
        os.kill(ready.pid, signal.SIGSTOP)
        again = await only(supervisor, lambda now: now.state is WorkerState.READY and now.restarts)
    assert again.last_error == "2 health checks in a row failed: health: no answer within 0.2 s"
    assert WorkerState.UNHEALTHY in states


async def test_server_that_answers_health_but_makes_no_progress_is_restarted() -> None:
    calls = 0

    async def one_token() -> None:
        nonlocal calls
        calls += 1
        if 2 <= calls <= 3:
            raise RuntimeError("no token within 5 s")

    watched = spec(liveness=one_token, liveness_interval=0.02, liveness_failures=2)
    async with supervise(watched) as supervisor:
        again = await only(supervisor, lambda now: now.state is WorkerState.READY and now.restarts)
    assert again.last_error == "2 liveness checks in a row failed: liveness: no token within 5 s"


async def test_one_failed_probe_is_forgiven() -> None:
    outcomes = iter([False, True, False])
    passed = asyncio.Event()

    async def flaky() -> None:
        match next(outcomes, None):
            case False:
                raise RuntimeError("slow")
            case None:
                passed.set()

    async with supervise(spec(liveness=flaky, liveness_interval=0.01, liveness_failures=2)) as supervisor:
        async with asyncio.timeout(20):
            await passed.wait()
        ready = await only(supervisor, is_(WorkerState.READY))
    assert (ready.restarts, ready.last_error) == (0, "liveness: slow")


async def test_port_in_use_is_said_and_the_other_server_is_not_taken_for_ours() -> None:
    with occupied_port() as port:
        taken = spec(health_url=f"http://127.0.0.1:{port}/health", restart=RestartSettings(max_failures=0))
        async with supervise(taken) as supervisor:
            failed = await only(supervisor, is_(WorkerState.FAILED, WorkerState.READY))
    assert failed.last_error == f"127.0.0.1:{port} is already in use by another process"


async def test_program_that_does_not_exist_is_said() -> None:
    missing = spec(argv=["no-such-program-here"], restart=RestartSettings(max_failures=0))
    async with supervise(missing) as supervisor:
        failed = await only(supervisor, is_(WorkerState.FAILED))
    expected = "exited with status 127: cannot start no-such-program-here: No such file or directory"
    assert failed.last_error == expected


async def test_workers_are_independent() -> None:
    crashing = spec(name="bad", argv=["false"])
    async with supervise(crashing, spec(name="good")) as supervisor, asyncio.timeout(20):
        bad, good = await supervisor.wait_until(
            lambda every: [one.state for one in every] == [WorkerState.FAILED, WorkerState.READY]
        )
    assert (bad.restarts, good.restarts) == (2, 0)


def members(group: int) -> Iterator[int]:
    """Process ids of a process group."""
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) == group:
                yield pid


SUPERVISOR = """
import json, sys
from backends.workers.supervisor import RestartSettings, WorkerSpec, run_supervised
values = json.loads(sys.argv[1])
restart = RestartSettings(**values.pop("restart"))
run_supervised([WorkerSpec(restart=restart, **values)], on_change=lambda now: print(now.name, now.state, now.pid))
"""


def start_supervisor(*flags: str, **changes: Any) -> Process:
    made = spec(*flags, **changes)
    fields = ("name", "argv", "health_url", "ready_poll", "grace")
    values = {name: getattr(made, name) for name in fields} | {"restart": {"initial": 0.01, "max_failures": 1}}
    return Process.python("-c", SUPERVISOR, json.dumps(values))


def pids_of(process: Process) -> tuple[int, int]:
    server = int(process.wait_for_line("w ready").split()[-1])
    return server, int(process.wait_for_line("child ").split()[-1])


def test_killed_supervisor_leaves_no_orphan() -> None:
    with start_supervisor("deaf", "child") as process:
        server, child = pids_of(process)
        process.kill()
        wait_until(lambda: not alive(server) and not alive(child), what="the end of the orphans")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_killed_supervisor_leaves_no_server_even_without_its_watcher() -> None:
    with start_supervisor("deaf", "child") as process:
        server, child = pids_of(process)
        [watcher] = set(members(server)) - {server, child}
        os.kill(watcher, signal.SIGKILL)
        process.kill()
        wait_until(lambda: not alive(server), what="the server's end")
        os.kill(child, signal.SIGKILL)


def test_sigterm_drains_and_output_carries_the_workers_name() -> None:
    with start_supervisor("child") as process:
        server, child = pids_of(process)
        process.terminate()
        assert process.wait() == 0
        assert not alive(server)
        wait_until(lambda: not alive(child))
        assert "w | listening" in process.output
        assert "w stopping" in process.output


def test_second_signal_kills_at_once() -> None:
    with start_supervisor("deaf", "child", grace=600.0) as process:
        server, _ = pids_of(process)
        process.terminate()
        process.wait_for_line("w stopping")
        process.terminate()
        assert process.wait() == 0
        assert not alive(server)


def test_run_ends_with_the_reason_when_all_workers_have_failed() -> None:
    program = "raise SystemExit('OSError: no file named model.safetensors')"
    with start_supervisor(argv=[sys.executable, "-c", program]) as process:
        assert process.wait() == 1
        assert "worker w failed: exited with status 1: OSError: no file named model.safetensors" in process.output
