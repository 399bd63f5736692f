"""`seawall chaos` against real processes: what it breaks, what it tells, what it refuses to touch."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.chaos.breakage import NotThatProcess, behind
from gateway.chaos.command import Plan, choose
from gateway.chaos.how import How
from tests.integration.test_operations import config
from tests.support.fault_backend import FaultBackend
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.processes import Process, alive, free_port

#: Starts the fault backend and, when it is killed, starts it again: what a supervisor does.
AGAIN = "while true; do {python} -m tests.support.fault_backend --port {port} & echo pid $!; wait; done"


class Other:
    """A backend in a process of its own; its `url` is all that a configuration needs."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"


@asynccontextmanager
async def scene() -> AsyncIterator[tuple[RunningGateway, Process, int]]:
    """(gateway over two backends, the script that keeps b0 alive, b0's port)."""
    port = free_port()
    script = AGAIN.format(python=sys.executable, port=port)
    with Process(["bash", "-c", script]) as process:
        await asyncio.to_thread(process.wait_ready, f"http://127.0.0.1:{port}/health")
        async with FaultBackend() as two:
            more = "policies: {default: {circuit_breaker: {open_for: 500ms}, timeout: {first_token: 2s}}}"
            async with running_gateway(config(Other(port), two, more=more)) as gateway:  # type: ignore[arg-type]
                yield gateway, process, port


def chaos(*arguments: str) -> tuple[int, str]:
    with Process.python("-m", "gateway", "chaos", *arguments) as process:
        return process.wait(90), process.output


async def test_a_killed_backend_is_hidden_told_and_seen_to_come_back() -> None:
    async with scene() as (gateway, _, port):
        before = behind(f"http://127.0.0.1:{port}", None)
        status, output = await asyncio.to_thread(
            chaos, gateway.url, "--yes", "--backend", "b0", "--calm", "1", "--patience", "40"
        )
        assert status == 0, output
        assert not alive(before)
        for said in (f"kill -9 {before} (b0)", "b0 answers again", " 0 failed", "No client got an error."):
            assert said in output


@pytest.mark.slow
async def test_a_frozen_backend_goes_on_afterwards() -> None:
    async with scene() as (gateway, _, port):
        pid = behind(f"http://127.0.0.1:{port}", None)
        arguments = ("--yes", "--backend", "b0", "--how", "freeze", "--frozen", "1", "--calm", "0.5", "--pid", str(pid))
        status, output = await asyncio.to_thread(chaos, gateway.url, *arguments)
        assert status == 0, output
        assert f"SIGSTOP {pid}" in output
        assert f"SIGCONT {pid}" in output
        assert alive(pid)


async def test_without_consent_nothing_is_broken() -> None:
    async with scene() as (gateway, _, port):
        pid = behind(f"http://127.0.0.1:{port}", None)
        status, output = await asyncio.to_thread(chaos, gateway.url, "--backend", "b0")
        assert status == 1
        assert f"kill -9 process {pid}" in output
        assert alive(pid)


async def test_a_process_that_is_not_the_backend_is_left_alone() -> None:
    async with FaultBackend() as one, FaultBackend() as two, running_gateway(config(one, two)) as gateway:
        with Process(["sleep", "60"]) as bystander:
            arguments = ("--yes", "--backend", "b0", "--pid", str(bystander.pid))
            status, output = await asyncio.to_thread(chaos, gateway.url, *arguments)
            assert status == 1
            assert "does not listen on port" in output
            assert alive(bystander.pid)


def test_a_backend_elsewhere_is_out_of_reach() -> None:
    with pytest.raises(NotThatProcess, match="not on this machine"):
        behind("http://10.0.0.5:8000", None)


ALONE = [{"name": "m", "models": ["m"], "tiers": [[{"backend": "a"}]]}]
PAIR = [{"name": "m", "models": ["m*", "m-1"], "tiers": [[{"backend": "a"}, {"backend": "b"}]]}]
A, B = ({"name": name, "kind": "vllm", "worker": {"pid": 1} if name == "b" else None} for name in "ab")


@pytest.mark.parametrize(
    ("routes", "plan", "expected"),
    [
        (PAIR, {}, ("b", "m-1")),
        (PAIR, {"backend": "a"}, ("a", "m-1")),
        (PAIR, {"backend": "a", "model": "m-2"}, ("a", "m-2")),
        (ALONE, {}, "no supervised backend"),
        (ALONE, {"backend": "a"}, ("a", "m")),
        (ALONE, {"backend": "x"}, "there is no backend 'x'"),
        (ALONE, {"backend": "b"}, "no route"),
    ],
)
def test_what_is_broken_is_chosen_so_that_others_can_take_over(routes, plan, expected) -> None:  # type: ignore[no-untyped-def]
    state = {"backends": [A, B], "routes": routes}
    wanted = Plan("http://127.0.0.1:1", How.KILL, **plan)
    if isinstance(expected, str):
        with pytest.raises(LookupError, match=expected):
            choose(state, wanted)
    else:
        backend, model = choose(state, wanted)
        assert (backend["name"], model) == expected
