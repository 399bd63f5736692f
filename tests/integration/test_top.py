"""`seawall top` and `seawall status` on a real terminal and without one."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import select
import subprocess
import sys
import time

import pytest
from rich.console import Console

from gateway.operator_client import printable
from gateway.top import frame, sparkline
from tests.integration.test_operations import config
from tests.support.fault_backend import FaultBackend
from tests.support.gateway import running_gateway
from tests.support.processes import ROOT, Process


def test_a_sparkline_is_scaled_to_its_highest_value() -> None:
    assert sparkline([0, 1, 2, None, 4]) == "▁▃▅ █"
    assert sparkline([0.0, None]) == "▁ "
    assert sparkline([]) == ""


def test_what_drives_a_terminal_is_not_shown() -> None:
    assert printable("a\x1b[31m\u202eb\n") == "a?[31m?b?"


def _run(*arguments: str, columns: int = 160) -> tuple[int, str]:
    with Process.python("-m", "gateway", *arguments, env={"COLUMNS": str(columns)}) as process:
        return process.wait(60), process.output


async def test_without_a_terminal_it_is_printed_once() -> None:
    async with FaultBackend() as one, FaultBackend() as two, running_gateway(config(one, two)) as gateway:
        await gateway.chat()
        await gateway.chat(model="gone", headers={"X-Correlation-ID": "story-9"})
        await gateway.post("/admin/backends/b1/drain", {})
        status, output = await asyncio.to_thread(_run, "top", gateway.url)
        assert status == 0, output
        for said in ("b0", "draining", "tiny", "b0 b1", "model_not_found", "story-9", "gone"):
            assert said in output
        status, output = await asyncio.to_thread(_run, "status", gateway.url)
        assert status == 0
        assert "draining" in output


async def test_on_a_terminal_it_stays_until_q() -> None:
    async with FaultBackend() as one, running_gateway(config(one)) as gateway:
        await gateway.chat()
        output, status = await asyncio.to_thread(_in_terminal, ["top", gateway.url, "--interval", "0.2"])
    assert status == 0
    assert b"\x1b[?1049h" in output  # the screen of its own, and back again
    assert b"\x1b[?1049l" in output
    assert b"q quits" in output


def _in_terminal(arguments: list[str]) -> tuple[bytes, int]:
    """Runs it on a terminal of its own, waits for two frames, presses q; (all it wrote, exit code)."""
    parent, child = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "140", "LINES": "50"}
    argv = [sys.executable, "-m", "gateway", *arguments]
    process = subprocess.Popen(argv, stdin=child, stdout=child, stderr=child, env=env, cwd=ROOT)
    os.close(child)
    written, deadline, asked = b"", time.monotonic() + 30, False
    try:
        while time.monotonic() < deadline:
            if select.select([parent], [], [], 0.1)[0]:
                try:
                    written += os.read(parent, 65536)
                except OSError:  # its terminal is gone with it
                    break
            if not asked and written.count(b"q quits") >= 2:
                os.write(parent, b"q")
                asked = True
            if process.poll() is not None and asked:
                break
        while select.select([parent], [], [], 0)[0]:
            try:
                written += os.read(parent, 65536)
            except OSError:
                break
        return written, process.wait(5)
    finally:
        process.kill()
        process.wait()
        os.close(parent)


async def test_a_frame_says_that_the_gateway_is_gone_and_shows_the_last_state() -> None:
    async with FaultBackend() as one, running_gateway(config(one)) as gateway:
        state = (await gateway.get("/admin/state")).json
    console = Console(width=140, file=io.StringIO())
    console.print(frame(state, notice="connection refused; trying again"))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "trying again" in shown
    assert "b0" in shown


@pytest.mark.parametrize("command", ["top", "status"])
async def test_on_eighty_columns_no_name_state_or_id_is_cut(command: str) -> None:
    name, correlation_id = "llama-70b-instruct", "0f" * 18
    async with FaultBackend() as one, running_gateway(config(one).replace("b0", name)) as gateway:
        await gateway.chat(model="gone", headers={"X-Correlation-ID": correlation_id})
        await gateway.post(f"/admin/backends/{name}/breaker/open", {})
        status, output = await asyncio.to_thread(_run, command, gateway.url, columns=80)
    assert status == 0
    assert name in output
    assert "open" in output
    assert "…" not in output
    assert command == "status" or correlation_id in output


async def test_what_is_no_gateway_is_said_so() -> None:
    async with FaultBackend() as one:
        status, output = await asyncio.to_thread(_run, "top", one.url)
    assert status == 1
    assert "cannot read the state" in output
    assert "Traceback" not in output
