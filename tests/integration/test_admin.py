"""The operators' page over real sockets: what it tells, what it lets operators do, whom it lets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from gateway.admin.events import MAX_CLIENTS
from tests.integration.test_operations import config, sample, wait_for_health
from tests.support.counting_model import count_text
from tests.support.fault_backend import FaultBackend
from tests.support.gateway import Answer, RunningGateway, running_gateway

ACT = "/admin/backends/b0"


async def act(gateway: RunningGateway, path: str, headers: dict[str, str] | None = None, **body: str) -> Answer:
    return await gateway.post(path, body, headers)


async def backend(gateway: RunningGateway, name: str = "b0") -> dict[str, Any]:
    state = (await gateway.get("/admin/state")).json
    found: dict[str, Any] = next(each for each in state["backends"] if each["name"] == name)
    return found


async def events(gateway: RunningGateway) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Events of the stream, as (name, data)."""
    async with gateway.session.get(gateway.url + "/admin/events") as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert {"X-Correlation-ID", "X-Request-ID", "X-Seawall-Overhead-Ms"} <= response.headers.keys()
        name = ""
        while line := (await response.content.readuntil(b"\n")).decode().rstrip("\n"):
            pass
        while True:
            line = (await response.content.readuntil(b"\n")).decode().rstrip("\n")
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                yield name, json.loads(line[6:])


async def test_the_page_and_its_parts_are_served_with_a_strict_policy() -> None:
    async with FaultBackend() as one, running_gateway(config(one)) as gateway:
        page = await gateway.get("/admin")
        assert page.status == 200
        text = page.body.decode()
        for name in ("style.css", "app.js", "icon.svg"):
            assert f"/admin/{name}" in text
            part = await gateway.get(f"/admin/{name}")
            assert part.status == 200
            assert part.headers["x-content-type-options"] == "nosniff"
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "<script>" not in text
        assert "style=" not in text
        assert "onclick" not in text
        assert (await gateway.get("/admin/nothing.js")).status == 404


async def test_draining_sends_nothing_new_and_lets_what_runs_finish() -> None:
    async with (
        FaultBackend(per_token=0.05) as one,
        FaultBackend() as two,
        running_gateway(config(one, two)) as gateway,
    ):
        await wait_for_health(gateway, "healthy")
        await act(gateway, "/admin/backends/b1/drain")
        running = asyncio.create_task(gateway.chat(stream=True))
        await one.log.wait_for_state("running")
        await act(gateway, "/admin/backends/b1/restore")
        done = await act(gateway, f"{ACT}/drain", operator="ada", reason="new driver")
        assert (done.status, done.json["changed"], done.json["endpoint"]["service"]) == (200, True, "draining")
        assert (await act(gateway, f"{ACT}/drain")).json["changed"] is False
        before = len(list(one.log.to("/v1/chat/completions")))
        for _ in range(5):
            assert (await gateway.chat()).headers["x-seawall-backend"] == "b1"
        assert len(list(one.log.to("/v1/chat/completions"))) == before
        assert (await running).streamed == count_text(1, 8)
        report = await wait_for_health(gateway, "degraded")
        assert report["checks"]["backends"]["details"]["down"]["b0"] == "draining by an operator"
        assert (await gateway.get("/status")).json["endpoints"]["b0"]["service"] == "draining"
        metrics = (await gateway.get("/metrics")).body.decode()
        assert sample(metrics, "seawall_endpoint_service", backend="b0") == 1
        await act(gateway, f"{ACT}/restore")
        await wait_for_health(gateway, "healthy")
        acts = (await gateway.get("/admin/state")).json["acts"]
        assert [(each["verb"], each["outcome"]) for each in acts[:3]] == [
            ("restore", "done"),
            ("drain", "unchanged"),
            ("drain", "done"),
        ]
        assert (acts[2]["actor"]["name"], acts[2]["reason"]) == ("ada", "new driver")


async def test_ejecting_breaks_off_what_runs_and_it_is_answered_elsewhere() -> None:
    async with (
        FaultBackend(first_token=30) as stuck,
        FaultBackend() as good,
        running_gateway(config(stuck, good)) as gateway,
    ):
        await act(gateway, "/admin/backends/b1/drain")
        running = asyncio.create_task(gateway.chat())
        await stuck.log.wait_for_state("running")
        await act(gateway, "/admin/backends/b1/restore")
        assert (await act(gateway, f"{ACT}/eject")).json["endpoint"]["service"] == "ejected"
        answer = await running
        assert (answer.status, answer.headers["x-seawall-backend"]) == (200, "b1")
        assert answer.headers["x-seawall-attempts"] == "2"


async def test_with_its_only_backend_out_of_service_a_route_is_critical_until_it_is_back() -> None:
    more = "policies: {default: {admission: {max_wait: 200ms}}}"
    async with FaultBackend() as one, running_gateway(config(one, more=more)) as gateway:
        await act(gateway, f"{ACT}/eject")
        refused = await gateway.chat()
        assert (refused.status, refused.error["error_type"]) == (503, "model_overloaded")
        assert (await gateway.get("/readyz")).status == 503
        await act(gateway, f"{ACT}/restore")
        assert (await gateway.chat()).status == 200
        assert (await gateway.get("/readyz")).status == 200


async def test_a_circuit_is_held_open_until_it_is_closed() -> None:
    async with FaultBackend() as one, FaultBackend() as two, running_gateway(config(one, two)) as gateway:
        opened = await act(gateway, f"{ACT}/breaker/open")
        assert opened.json["endpoint"]["breaker"] == "open"
        assert (await backend(gateway))["breaker"]["forced"] is True
        assert {(await gateway.chat()).headers["x-seawall-backend"] for _ in range(6)} == {"b1"}
        assert (await act(gateway, f"{ACT}/breaker/reset")).json["endpoint"]["breaker"] == "closed"
        assert (await backend(gateway))["breaker"]["forced"] is False
        await act(gateway, f"{ACT}/breaker/open")
        assert (await act(gateway, f"{ACT}/restore")).json["endpoint"]["breaker"] == "closed"


async def test_what_operators_said_survives_a_reload_that_changes_the_backend(tmp_path: Path) -> None:
    async with FaultBackend() as one, FaultBackend() as two:
        path = tmp_path / "gateway.yaml"
        path.write_text(config(one, two))
        async with running_gateway(config(one, two), path) as gateway:
            await act(gateway, f"{ACT}/drain")
            await act(gateway, "/admin/backends/b1/breaker/open")
            old = dict(gateway.gateway.runtime.endpoints)
            path.write_text(config(one, two).replace("kind: vllm", "kind: vllm, weight: 2"))
            assert gateway.gateway.reload() is True
            assert gateway.gateway.runtime.endpoints["b0"] is not old["b0"]
            assert (await backend(gateway, "b0"))["service"] == "draining"
            assert (await backend(gateway, "b1"))["breaker"]["forced"] is True


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_an_open_circuit_survives_a_reload_unless_it_puts_another_server_there(
    elsewhere: bool, tmp_path: Path
) -> None:
    async with FaultBackend() as one, FaultBackend() as two:
        path = tmp_path / "gateway.yaml"
        path.write_text(config(one, server="watch: false"))
        async with running_gateway(config(one, server="watch: false"), path) as gateway:
            gateway.gateway.runtime.endpoints["b0"].breaker.trip(monotonic())
            changed = config(two if elsewhere else one, server="watch: false")
            path.write_text(changed.replace("kind: vllm", "kind: vllm, weight: 2"))
            assert gateway.gateway.reload() is True
            endpoint = gateway.gateway.runtime.endpoints["b0"]
            assert endpoint.config.weight == 2
            assert endpoint.breaker.allows(monotonic()) is elsewhere


async def test_a_reload_is_shown_before_it_is_made_and_only_what_was_shown_is_taken(tmp_path: Path) -> None:
    async with FaultBackend() as one, FaultBackend() as two:
        path = tmp_path / "gateway.yaml"
        manual = config(one, server="watch: false")
        path.write_text(manual)
        async with running_gateway(manual, path) as gateway:
            path.write_text(config(one, two, server="watch: false, max_body: 1MiB"))
            shown = (await act(gateway, "/admin/reload?dry_run=true")).json
            assert "backends.b1: added" in shown["changes"]
            assert shown["restart"] == ["server.max_body: 20MiB -> 1MiB"]
            assert shown["applied"] is False
            assert set(gateway.gateway.runtime.endpoints) == {"b0"}
            path.write_text("backends: {")
            broken = (await act(gateway, "/admin/reload?dry_run=true")).json
            assert broken["problems"]
            assert broken["changes"] == []
            assert (await act(gateway, "/admin/reload")).status == 409
            path.write_text(config(one, two, server="watch: false, max_body: 2MiB"))
            stale = await act(gateway, "/admin/reload", revision=shown["revision"])
            assert (stale.status, set(gateway.gateway.runtime.endpoints)) == (409, {"b0"})
            path.write_text(config(one, two, server="watch: false, max_body: 1MiB"))
            taken = await act(gateway, "/admin/reload", revision=shown["revision"])
            assert (taken.status, taken.json["applied"]) == (200, True)
            assert set(gateway.gateway.runtime.endpoints) == {"b0", "b1"}


async def test_a_listener_for_operators_comes_with_a_restart_and_until_then_they_are_served_where_they_were(
    tmp_path: Path,
) -> None:
    async with FaultBackend() as one:
        path = tmp_path / "gateway.yaml"
        manual = config(one, server="watch: false")
        path.write_text(manual)
        async with running_gateway(manual, path) as gateway:
            changed = "watch: false, trusted_proxies: [10.0.0.0/8], admin: {listen: '127.0.0.1:0'}"
            path.write_text(config(one, server=changed))
            taken = (await act(gateway, "/admin/reload")).json
            assert taken["applied"] is True
            assert taken["restart"] == ["server.admin.listen: null -> 127.0.0.1:0"]
            assert gateway.gateway.runtime.proxies
            assert (await gateway.get("/status")).status == 200


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/admin/backends/nope/drain", 404, "unknown_backend"),
        ("/admin/backends/b0/explode", 404, None),
        ("/admin/reload", 409, None),
    ],
)
async def test_acts_upon_nothing_are_refused(path: str, status: int, code: str | None) -> None:
    async with FaultBackend() as one, running_gateway(config(one)) as gateway:
        refused = await act(gateway, path)
        assert refused.status == status
        assert code is None or refused.error["code"] == code


async def test_acts_need_the_key_where_one_is_set_and_are_logged_with_who_and_what(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with FaultBackend() as one:
        async with running_gateway(config(one, server="admin: {key: operator-secret}")) as gateway:
            assert (await gateway.get("/admin/state")).status == 200
            assert (await act(gateway, f"{ACT}/drain")).status == 401
            assert (await backend(gateway))["service"] == "active"
            key = {"Authorization": "Bearer operator-secret"}
            assert (await act(gateway, f"{ACT}/drain", key, operator="ada")).status == 200
            assert (await act(gateway, f"{ACT}/drain", key | {"Origin": "https://evil.example"})).status == 403
            away = {"X-Forwarded-For": "203.0.113.9"}
            page = await gateway.get("/admin", headers=away)
            assert (page.status, page.headers["www-authenticate"][:5]) == (401, "Basic")
            assert "www-authenticate" not in (await gateway.get("/admin/state", headers=away)).headers
        lines = [json.loads(line) for line in capfd.readouterr().out.splitlines() if "operator_act" in line]
    told = [(line["outcome"], line["act"], line["backend"], line["by"], line["operator"]) for line in lines]
    assert told == [
        ("refused", "drain", "b0", "nobody", None),
        ("done", "drain", "b0", "key", "ada"),
        ("refused", "drain", "b0", "nobody", None),
    ]
    assert all(line["correlation_id"] and line["peer"] == "127.0.0.1" for line in lines)
    assert "operator-secret" not in json.dumps(lines)


async def test_events_begin_with_everything_and_go_on_with_what_is_new() -> None:
    async with FaultBackend() as one, running_gateway(config(one)) as gateway, asyncio.timeout(10):
        stream = events(gateway)
        name, first = await anext(stream)
        assert name == "snapshot"
        assert {"backends", "routes", "history", "acts", "health", "machine"} <= first.keys()
        await gateway.chat(headers={"X-Correlation-ID": "seen-1"})
        await act(gateway, f"{ACT}/drain")
        seen: set[str] = set()
        services: set[str] = set()
        while "seen-1" not in seen or "draining" not in services:
            name, state = await anext(stream)
            assert name == "state"
            services.add(state["backends"][0]["service"])
            seen |= {story["correlation_id"] for story in state.get("requests", ())}
        await stream.aclose()  # type: ignore[attr-defined]


async def test_open_pages_are_bounded_and_end_with_the_gateway() -> None:
    async with FaultBackend() as one, running_gateway(config(one)) as gateway, asyncio.timeout(10):
        streams = [await gateway.session.get(gateway.url + "/admin/events") for _ in range(MAX_CLIENTS)]
        for stream in streams:
            await stream.content.readuntil(b"\n")
        refused = await gateway.get("/admin/events")
        assert (refused.status, refused.error["code"]) == (503, "too_many_pages")
        streams.pop().close()
        while len(gateway.gateway.admin.events) == MAX_CLIENTS:  # noqa: ASYNC110 - a condition with a bound
            await asyncio.sleep(0.01)
        assert (await gateway.session.get(gateway.url + "/admin/events")).status == 200
        await gateway.gateway.stop(timeout=0)
        assert len(gateway.gateway.admin.events) == 0


async def test_stories_are_searched_on_the_server() -> None:
    async with FaultBackend() as one, FaultBackend() as two, running_gateway(config(one, two)) as gateway:
        await gateway.chat(headers={"X-Correlation-ID": "fine"})
        await gateway.chat(model="nope", headers={"X-Correlation-ID": "lost"})
        found = (await gateway.get("/admin/requests?outcome=failed&q=model_not")).json["requests"]
        assert [story["correlation_id"] for story in found] == ["lost"]
        whole = (await gateway.get("/admin/requests?q=fine")).json["requests"][0]
        assert whole["attempts"][0]["because"].startswith("first choice of the first tier")


async def test_the_openapi_document_has_the_operators_paths() -> None:
    async with FaultBackend() as one, running_gateway(config(one)) as gateway:
        paths = (await gateway.get("/openapi.json")).json["paths"]
        assert {"/admin", "/admin/state", "/admin/events", "/admin/requests", "/admin/reload"} <= paths.keys()
        assert "post" in paths["/admin/backends/{name}/drain"]
        assert "post" in paths["/admin/backends/{name}/breaker/open"]
