"""`server.workers`: several processes on one port that look like one, and that one another's end does not touch."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from tests.support.load import load_on
from tests.support.processes import FaultProcess, Process, alive, free_port, occupied_port, wait_until
from tests.support.serving import Serving, gateway_yaml

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "count"}], "max_tokens": 4}
TWO = "workers: 2, drain: 10s, drain_delay: 500ms"


@pytest.fixture(scope="module")
def backend() -> Iterator[FaultProcess]:
    with FaultProcess("--per-token", "0.002") as process:
        yield process


async def ask(url: str, correlation_id: str = "-", model: str = "tiny") -> int:
    """One chat request over a connection of its own; the status."""
    headers = {"X-Correlation-ID": correlation_id}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url + "/v1/chat/completions", json={**CHAT, "model": model}, headers=headers) as answer,
    ):
        await answer.read()
        return answer.status


async def settled(gateway: Serving, workers: int = 2) -> None:
    """Until so many workers serve."""
    async with asyncio.timeout(20):
        while await gateway.sample("seawall_workers") != workers:  # noqa: ASYNC110 - it is another process's
            await asyncio.sleep(0.05)


async def test_the_workers_answers_are_one_gateways(backend: FaultProcess, tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(gateway_yaml(backend, server=TWO))
    with Serving(path, free_port()) as gateway:
        assert [await ask(gateway.url, f"r{number}") for number in range(24)] == [200] * 24
        assert await ask(gateway.url, model="nope") == 404
        for _ in range(4):  # whichever answers
            assert await gateway.sample("seawall_requests_total", route="tiny", outcome="ok") == 24
            assert (await gateway.get("/errors"))["by_type"] == {"model_not_found": 1}
        pids = await gateway.workers()
        assert set(pids) == {0, 1}
        stories = [await gateway.get(f"/requests/r{number}") for number in range(24)]
        assert [story["outcome"] for story in stories] == ["ok"] * 24
        by_worker = {json.loads(line)["worker"] for line in gateway.output.splitlines() if '"event":"request"' in line}
        assert by_worker == {0, 1}
        status = await gateway.get("/status")
        assert status["health"]["checks"]["workers"]["details"] == {"serving": 2, "wanted": 2}
        assert status["endpoints"]["b0"]["breaker"] == "closed"


async def test_a_worker_that_is_killed_takes_nothing_with_it_and_comes_back(
    backend: FaultProcess, tmp_path: Path
) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(gateway_yaml(backend, server=TWO))
    with Serving(path, free_port()) as gateway:
        for _ in range(12):
            await ask(gateway.url)
        assert await gateway.sample("seawall_requests_total", route="tiny", outcome="ok") == 12
        before = await gateway.workers()
        os.kill(before[0], signal.SIGKILL)
        await asyncio.to_thread(gateway.wait_for_line, "worker_died")
        assert [await ask(gateway.url) for _ in range(12)] == [200] * 12  # some of them to its own socket
        await settled(gateway)
        after = await gateway.workers()
        assert after[0] != before[0]
        assert after[1] == before[1]
        assert await gateway.sample("seawall_requests_total", route="tiny", outcome="ok") == 24
        assert await gateway.sample("seawall_worker_restarts_total") == 1


async def test_what_a_worker_that_is_gone_has_answered_stays_on_the_page_and_in_the_errors(
    backend: FaultProcess, tmp_path: Path
) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(gateway_yaml(backend, server=TWO))
    with Serving(path, free_port()) as gateway:
        assert [await ask(gateway.url) for _ in range(12)] == [200] * 12
        assert [await ask(gateway.url, model="nope") for _ in range(6)] == [404] * 6
        leaves = (await gateway.workers())[0]
        os.kill(leaves, signal.SIGTERM)  # it is replaced
        async with asyncio.timeout(20):
            while alive(leaves):  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.05)
        for _ in range(4):  # whichever answers
            state = await gateway.get("/admin/state")
            assert sum(route["ok"] for route in state["routes"]) == 12
            assert state["errors"]["by_type"] == {"model_not_found": 6}
            assert (await gateway.get("/errors"))["by_type"] == {"model_not_found": 6}
            assert await gateway.sample("seawall_requests_total", route="tiny", outcome="ok") == 12


@pytest.mark.slow
async def test_a_worker_that_hangs_is_replaced(backend: FaultProcess, tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(gateway_yaml(backend, server=TWO))
    with Serving(path, free_port()) as gateway:
        frozen = (await gateway.workers())[0]
        os.kill(frozen, signal.SIGSTOP)
        await asyncio.to_thread(gateway.wait_for_line, "worker_hangs", 60.0)
        await settled(gateway)
        assert [await ask(gateway.url) for _ in range(12)] == [200] * 12
        assert frozen not in (await gateway.workers()).values()


async def test_a_reload_reaches_every_worker_or_none(backend: FaultProcess, tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    good = gateway_yaml(backend, server=TWO)
    path.write_text(good)
    with Serving(path, free_port()) as gateway:
        path.write_text(good + "junk: 1\n")
        gateway.signal(signal.SIGHUP)
        await asyncio.to_thread(gateway.wait_for_line, "reload_refused")
        # One that starts now begins with what is served, not with what the file says.
        os.kill((await gateway.workers())[0], signal.SIGKILL)
        await asyncio.to_thread(gateway.wait_for_line, "worker_died")
        await settled(gateway)
        path.write_text(good.replace("model: tiny,", "model: [tiny, small],"))
        gateway.signal(signal.SIGHUP)
        await asyncio.to_thread(gateway.wait_for_line, '"event":"reloaded"')
        for _ in range(12):
            models = await gateway.get("/v1/models")
            assert [model["id"] for model in models["data"]] == ["tiny", "small"]
        assert await gateway.sample("seawall_last_reload_successful") == 1


async def test_workers_that_start_after_a_reload_that_adds_a_listener_for_operators_do_without_it(
    backend: FaultProcess, tmp_path: Path
) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(gateway_yaml(backend, server=TWO))
    with Serving(path, free_port()) as gateway:
        path.write_text(gateway_yaml(backend, server=f"{TWO}, admin: {{listen: '127.0.0.1:{free_port()}'}}"))
        gateway.signal(signal.SIGHUP)
        await asyncio.to_thread(gateway.wait_for_line, '"event":"reloaded"')
        for pid in (await gateway.workers()).values():
            os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(gateway.wait_for_count, "worker_died", 2)
        await settled(gateway)
        assert "worker_failed_to_start" not in gateway.output


async def test_an_operators_act_reaches_every_worker_and_those_that_start_later(
    backend: FaultProcess, tmp_path: Path
) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(gateway_yaml(backend, backend, server=TWO))
    with Serving(path, free_port()) as gateway:
        async with (
            aiohttp.ClientSession() as session,
            session.post(gateway.url + "/admin/backends/b0/breaker/open", json={"reason": "test"}) as done,
        ):
            assert done.status == 200
        os.kill((await gateway.workers())[1], signal.SIGKILL)
        await asyncio.to_thread(gateway.wait_for_line, "worker_died")
        await settled(gateway)
        for number in range(24):
            await ask(gateway.url, f"r{number}")
        stories = [await gateway.get(f"/requests/r{number}") for number in range(24)]
        assert {attempt["backend"] for story in stories for attempt in story["attempts"]} == {"b1"}


async def events(url: str, count: int) -> list[tuple[str, dict[str, Any]]]:
    """The first events of the operators' page, as (name, data)."""
    found: list[tuple[str, dict[str, Any]]] = []
    name = ""
    async with aiohttp.ClientSession(read_bufsize=2**22) as session, session.get(url + "/admin/events") as response:
        async for raw in response.content:
            field, _, value = raw.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                found.append((name, json.loads(value)))
                if len(found) == count:
                    break
    return found


async def test_the_operators_page_is_of_all_workers_whichever_serves_it(backend: FaultProcess, tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(gateway_yaml(backend, backend, server=TWO))
    with Serving(path, free_port()) as gateway:
        pages = [asyncio.create_task(events(gateway.url, 4)) for _ in range(4)]
        assert [await ask(gateway.url, f"r{number}") for number in range(24)] == [200] * 24
        assert [await ask(gateway.url, f"lost-{number}", model="nope") for number in range(8)] == [404] * 8
        async with aiohttp.ClientSession() as session:
            for verb in ("b0/drain", "b1/breaker/open"):
                async with session.post(f"{gateway.url}/admin/backends/{verb}", json={"reason": "test"}) as done:
                    assert done.status == 200
        for _ in range(6):  # whichever answers
            state = await gateway.get("/admin/state")
            assert {one["worker"] for one in state["workers"]} == {0, 1}
            assert sum(one["ok"] for one in state["routes"]) == 24
            assert state["errors"]["by_type"] == {"model_not_found": 8}
            assert sum(each["lately"]["ok"] for each in state["backends"] if each["lately"]) == 24
            assert [act["verb"] for act in state["acts"]] == ["breaker/open", "drain"]
            b0, b1 = state["backends"]
            assert (b0["service"], b1["breaker"]["state"], b1["breaker"]["seen_by"]) == ("draining", "open", None)
            found = (await gateway.get("/admin/requests?outcome=failed"))["requests"]
            assert {story["correlation_id"] for story in found} == {f"lost-{number}" for number in range(8)}
            assert [story["timestamp"] for story in found] == sorted(
                (story["timestamp"] for story in found), reverse=True
            )
        for seen in await asyncio.gather(*pages):
            assert [name for name, _ in seen] == ["snapshot"] + ["state"] * 3
            told = [story for _, state in seen for story in state.get("requests", ())]
            assert len(told) == len({story["correlation_id"] for story in told})

        def counted(state: dict[str, Any]) -> float:
            return sum(sample["ok"] for sample in state["history"])

        async with asyncio.timeout(10):
            while counted(await gateway.get("/admin/state")) < 20:  # noqa: ASYNC110 - it is another process's
                await asyncio.sleep(0.2)


async def test_an_idle_connection_survives_the_worker_that_had_it(backend: FaultProcess, tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(gateway_yaml(backend, server=TWO))
    port = free_port()
    with Serving(path, port) as gateway:
        connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
        gateway.signal(signal.SIGUSR2)
        await asyncio.to_thread(wait_until, lambda: gateway.output.count("worker_replaced") == 2)
        pids = set((await gateway.workers()).values())
        body = json.dumps(CHAT).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        for reader, writer in connections:
            writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            async with asyncio.timeout(5):
                answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            assert b"connection: close" not in answer
            writer.close()
        assert len(pids) == 2


async def test_workers_do_not_outlive_their_parent(backend: FaultProcess, tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(gateway_yaml(backend, server="workers: 2, drain: 1s, drain_delay: 100ms"))
    with Serving(path, free_port()) as gateway:
        pids = (await gateway.workers()).values()
        gateway.kill()
        await asyncio.to_thread(wait_until, lambda: not any(alive(pid) for pid in pids))


def test_workers_that_cannot_start_are_a_failure_and_a_port_in_use_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(gateway_yaml("http://127.0.0.1:9", server=TWO + ", tls: {cert: none.pem, key: none.pem}"))
    with Process.python("-m", "gateway", "serve", "--config", str(path), "--port", "0") as process:
        assert process.wait(30) == 1
        assert "cannot_start" in process.output
    path.write_text(gateway_yaml("http://127.0.0.1:9", server=TWO))
    with occupied_port() as port, Process.python("-m", "gateway", "serve", "-c", str(path), "--port", str(port)) as two:
        assert two.wait(30) == 1
        assert f"cannot listen on 127.0.0.1:{port}" in two.output


async def change_under_load(gateway: Serving, write: Callable[[str], object], reloads: int, rolls: int) -> int:
    """Reloads and rolling restarts under load; how many requests were answered rightly. Fails if one was not."""
    async with load_on(gateway.url) as load:
        for number in range(max(reloads, rolls)):
            if number < reloads:
                write(f"policies: {{p{number}: {{retry: {{attempts: 2}}}}}}\n")
                gateway.signal(signal.SIGHUP)
                await asyncio.to_thread(gateway.wait_for_count, '"event":"reloaded"', number + 1)
            if number < rolls:
                gateway.signal(signal.SIGUSR2)
                await asyncio.to_thread(gateway.wait_for_count, "worker_replaced", 2 * (number + 1), 60.0)
    print(f"\n{load.good} requests through {reloads} reloads and {rolls} rolling restarts, {len(load.failures)} failed")
    assert load.failures == []
    return load.good


@pytest.mark.parametrize(("reloads", "rolls"), [(6, 2), pytest.param(50, 10, marks=pytest.mark.slow)])
async def test_no_request_fails_through_reloads_and_rolling_restarts(
    reloads: int, rolls: int, backend: FaultProcess, tmp_path: Path
) -> None:
    path = tmp_path / "gateway.yaml"
    text = gateway_yaml(backend, server=TWO)
    path.write_text(text)
    with Serving(path, free_port()) as gateway:
        good = await change_under_load(gateway, lambda more: path.write_text(text + more), reloads, rolls)
        assert good > 100
        await settled(gateway)
        assert await gateway.sample("seawall_requests_total", route="tiny", outcome="ok") == good
        lines = [line for line in gateway.output.splitlines() if line]
        assert all(json.loads(line) for line in lines)  # no two processes' lines are mixed


async def test_tls_sessions_cannot_move_and_their_clients_are_told(backend: FaultProcess, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    path, port = tmp_path / "gateway.yaml", free_port()
    pem = tmp_path / "server.pem"
    path.write_text(gateway_yaml(backend, server=f"{TWO}, tls: {{cert: '{pem}', key: '{pem}'}}"))
    with Serving(path, port) as gateway:
        async with load_on(f"https://127.0.0.1:{port}", tls=context) as load:
            gateway.signal(signal.SIGUSR2)
            await asyncio.to_thread(gateway.wait_for_count, "worker_replaced", 2, 60.0)
        assert load.failures == []
        assert load.good > 20


@pytest.mark.parametrize(("workers", "times"), [(1, 2), pytest.param(2, 10, marks=pytest.mark.slow)])
async def test_no_request_fails_while_whole_processes_take_turns_on_one_socket(
    workers: int, times: int, backend: FaultProcess, tmp_path: Path
) -> None:
    """Socket activation: the socket belongs to neither process."""
    path = tmp_path / "gateway.yaml"
    path.write_text(gateway_yaml(backend, server=f"workers: {workers}, drain: 10s, drain_delay: 500ms"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        port = listener.getsockname()[1]
        running = Serving(path, port, listener)
        try:
            async with load_on(running.url) as load:
                for _ in range(times):
                    following = await asyncio.to_thread(Serving, path, port, listener)
                    running.terminate()
                    assert await asyncio.to_thread(running.wait, 20) == 0
                    running.close()
                    running = following
            print(f"\n{load.good} requests through {times} turns of processes, {len(load.failures)} failed")
            assert load.failures == []
            assert load.good > 50
        finally:
            running.close()
