"""What operators see and do: health, status, errors, metrics, keys, reload, drain."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from time import monotonic

import pytest

from gateway import app
from gateway.health.monitor import Monitor
from tests.support.counting_model import count_text
from tests.support.fault_backend import FaultBackend
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.raw_http import talk
from tests.support.waiting import eventually


def config(*backends: FaultBackend, more: str = "", server: str = "") -> str:
    """A gateway.yaml with these backends in one tier of the model `tiny`."""
    lines = "\n".join(
        f"  b{number}: {{url: '{backend.url}', kind: vllm, health: {{interval: 50ms, unhealthy_after: 1}}}}"
        for number, backend in enumerate(backends)
    )
    names = ", ".join(f"b{number}" for number in range(len(backends)))
    return (
        f"server: {{listen: '127.0.0.1:0', {server}}}\nbackends:\n{lines}\n"
        f"routes: [{{model: tiny, backends: [{names}]}}]\n{more}"
    )


async def wait_for_health(gateway: RunningGateway, wanted: str) -> dict:  # type: ignore[type-arg]
    """Asks until the overall status is as wanted (bounded by the test's own time limit of 10 s)."""
    async with asyncio.timeout(10):
        while True:
            report = (await gateway.get("/health")).json
            if report["overall_status"] == wanted:
                return report  # type: ignore[no-any-return]
            await asyncio.sleep(0.02)


def sample(text: str, name: str, **labels: str) -> float:
    """The value of one sample in a Prometheus exposition."""
    for line in text.splitlines():
        match = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
        if match and all(f'{key}="{value}"' in (match[1] or "") for key, value in labels.items()):
            return float(match[2])
    raise AssertionError(f"no sample {name} {labels}")


async def test_health_goes_from_healthy_to_degraded_to_critical_and_back() -> None:
    async with FaultBackend() as one, FaultBackend() as two, running_gateway(config(one, two)) as gateway:
        await wait_for_health(gateway, "healthy")
        await one.kill()
        report = await wait_for_health(gateway, "degraded")
        assert "b0" in report["checks"]["backends"]["details"]["down"]
        assert (await gateway.get("/readyz")).status == 200
        await two.kill()
        report = await wait_for_health(gateway, "critical")
        assert report["critical_failures"] == ["backends"]
        assert (await gateway.get("/readyz")).status == 503
        assert (await gateway.get("/health")).status == 503
        await one.start()
        await two.start()
        await wait_for_health(gateway, "healthy")
        assert (await gateway.chat()).text == count_text(1, 8)


async def test_one_route_without_a_backend_is_critical_and_the_gateway_still_ready() -> None:
    async with FaultBackend() as one, FaultBackend() as two:
        routes = "[{model: tiny, backends: [b0]}, {model: other, backends: [b1]}]"
        text = config(one, two).replace("[{model: tiny, backends: [b0, b1]}]", routes)
        async with running_gateway(text) as gateway:
            await wait_for_health(gateway, "healthy")
            await two.kill()
            await wait_for_health(gateway, "critical")
            assert (await gateway.get("/readyz")).status == 200
            assert (await gateway.chat()).status == 200
            await one.kill()
            await eventually(lambda: not gateway.gateway.monitor.serves)
            assert (await gateway.get("/readyz")).status == 503


async def test_a_reload_changes_an_endpoints_times_and_leaves_its_state(tmp_path: Path) -> None:
    async with FaultBackend() as one:
        path = tmp_path / "gateway.yaml"
        manual = config(one, server="watch: false")
        path.write_text(manual)
        async with running_gateway(manual, path) as gateway:
            endpoint = gateway.gateway.runtime.endpoints["b0"]
            path.write_text(manual + "policies: {default: {timeout: {connect: 3s, first_token: 5m}}}\n")
            assert gateway.gateway.reload() is True
            assert gateway.gateway.runtime.endpoints["b0"] is endpoint
            assert (endpoint.pool.connect_timeout, endpoint.progress.window) == (3.0, 300.0)


async def test_what_was_spent_and_who_is_out_survive_a_reload_that_changes_something_else(tmp_path: Path) -> None:
    async with FaultBackend() as one:
        path = tmp_path / "gateway.yaml"
        manual = config(one, server="watch: false")
        path.write_text(manual)
        async with running_gateway(manual, path) as gateway:
            budget = gateway.gateway.runtime.routes.routes[0].budget
            budget.withdraw(monotonic())
            gateway.gateway.runtime.endpoints["b0"].breaker.trip(monotonic())
            path.write_text(manual + "policies: {default: {retry: {attempts: 2}, timeout: {total: 3m}}}\n")
            assert gateway.gateway.reload() is True
            (route,) = gateway.gateway.runtime.routes.routes
            assert (route.policy.retry.attempts, route.budget) == (2, budget)
            assert gateway.gateway.runtime.endpoints["b0"].breaker.snapshot(monotonic()).state == "open"
            path.write_text(manual + "policies: {default: {retry: {budget: {ratio: 0.1}}}}\n")
            assert gateway.gateway.reload() is True
            assert gateway.gateway.runtime.routes.routes[0].budget is not budget


async def test_a_reload_with_a_url_that_the_redis_client_does_not_take_changes_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with FaultBackend() as one, FaultBackend() as two:
        path = tmp_path / "gateway.yaml"
        manual = config(one, server="watch: false")
        path.write_text(manual)
        async with running_gateway(manual, path) as gateway:
            path.write_text(config(one, two, server="watch: false", more="state: {redis: 'redis://u:pw@h/0?db=x'}"))
            assert gateway.gateway.reload() is False
            assert set(gateway.gateway.runtime.endpoints) == {"b0"}
    said = capfd.readouterr().out
    assert "state.redis: is not a URL that the client takes" in said
    assert "pw@" not in said


async def test_the_operations_answers_hold_the_contract() -> None:
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        answer = await gateway.chat(headers={"X-Correlation-ID": "story-1"})
        assert answer.status == 200
        assert (await gateway.get("/livez")).json == {"status": "ok"}
        status = (await gateway.get("/status")).json
        assert {"health", "errors", "endpoints", "uptime_seconds", "version"} <= status.keys()
        assert status["endpoints"]["b0"]["breaker"] == "closed"
        story = (await gateway.get("/requests/story-1")).json
        assert [attempt["backend"] for attempt in story["attempts"]] == ["b0"]
        assert story["attempts"][0]["outcome"] == "ok"
        missing = await gateway.get("/requests/nobody")
        assert missing.status == 404
        assert missing.error["correlation_id"] == missing.headers["x-correlation-id"]
        assert (await gateway.get("/openapi.json")).json["openapi"].startswith("3.")


async def test_metrics_count_requests_tokens_and_attempts() -> None:
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        await gateway.chat()
        await gateway.chat(stream=True, stream_options={"include_usage": True})
        await gateway.chat(model="nope")
        text = (await gateway.get("/metrics")).body.decode()
        assert sample(text, "seawall_requests_total", route="tiny", outcome="ok") == 2
        assert sample(text, "seawall_requests_total", route="none", outcome="model_not_found") == 1
        assert sample(text, "seawall_attempts_total", route="tiny", backend="b0", outcome="ok") == 2
        assert sample(text, "seawall_tokens_total", route="tiny", kind="completion") == 16
        assert sample(text, "seawall_endpoint_breaker_state", backend="b0") == 0
        assert sample(text, "seawall_time_to_first_token_seconds_count", route="tiny") == 2


async def test_errors_are_counted_by_type_and_pattern() -> None:
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        for _ in range(3):
            await gateway.chat(model="nope")
        report = (await gateway.get("/errors")).json
        assert report["by_type"]["model_not_found"] == 3 or report["by_type"]["model_not_found"]["total"] == 3
        assert report["top_patterns"][0]["pattern"] == "model_not_found:chat"


KEYS = """
auth:
  keys: [{name: team-a, key: secret-a, models: ["tiny"]}, {name: team-b, key: secret-b, models: ["other*"]}]
"""


async def test_keys_are_asked_for_and_say_which_models_may_be_used() -> None:
    async with FaultBackend() as backend, running_gateway(config(backend, more=KEYS)) as gateway:
        nobody = await gateway.chat()
        assert (nobody.status, nobody.error["error_type"]) == (401, "authentication_failed")
        wrong = await gateway.chat(headers={"Authorization": "Bearer wrong"})
        assert wrong.status == 401
        denied = await gateway.chat(headers={"Authorization": "Bearer secret-b"})
        assert (denied.status, denied.error["error_type"]) == (403, "permission_denied")
        good = await gateway.chat(headers={"Authorization": "Bearer secret-a"})
        assert good.status == 200
        models = await gateway.get("/v1/models", headers={"Authorization": "Bearer secret-b"})
        assert models.json["data"] == []
        asked = [seen.headers["user-agent"] for seen in backend.log.to("/v1/models")]
        assert all(agent.startswith("seawall-probe") for agent in asked)


async def test_behind_a_proxy_the_operators_endpoints_need_the_key() -> None:
    async with FaultBackend() as backend:
        settings = config(backend, server="admin: {key: operator-secret}")
        async with running_gateway(settings) as gateway:
            forwarded = {"X-Forwarded-For": "203.0.113.9"}
            assert (await gateway.get("/status", headers=forwarded)).status == 401
            allowed = forwarded | {"Authorization": "Bearer operator-secret"}
            assert (await gateway.get("/status", headers=allowed)).status == 200
            assert (await gateway.get("/status")).status == 200


async def test_a_reload_takes_over_whole_or_not_at_all_and_keeps_state(tmp_path: Path) -> None:
    async with FaultBackend() as one, FaultBackend() as two:
        path = tmp_path / "gateway.yaml"
        path.write_text(config(one))
        async with running_gateway(config(one), path) as gateway:
            endpoint = gateway.gateway.runtime.endpoints["b0"]
            await gateway.chat()
            path.write_text("backends: {")
            assert gateway.gateway.reload() is False
            assert (await gateway.chat()).status == 200
            path.write_text(config(one, two))
            assert gateway.gateway.reload() is True
            assert gateway.gateway.runtime.endpoints["b0"] is endpoint
            assert set(gateway.gateway.runtime.endpoints) == {"b0", "b1"}
            text = (await gateway.get("/metrics")).body.decode()
            assert sample(text, "seawall_requests_total", route="tiny", outcome="ok") == 2


async def test_a_request_under_way_survives_a_reload_that_drops_its_backend(tmp_path: Path) -> None:
    async with FaultBackend(per_token=0.05) as one, FaultBackend() as two:
        path = tmp_path / "gateway.yaml"
        path.write_text(config(one))
        async with running_gateway(config(one), path) as gateway:
            running = asyncio.create_task(gateway.chat(stream=True))
            await one.log.wait_for_state("running")
            path.write_text(config(two))
            assert gateway.gateway.reload() is True
            answer = await running
            assert answer.streamed == count_text(1, 8)
            assert answer.frames[-1] == "[DONE]"


async def test_draining_finishes_what_runs_and_takes_nothing_new() -> None:
    async with FaultBackend(per_token=0.05) as backend, running_gateway(config(backend)) as gateway:
        running = asyncio.create_task(gateway.chat(stream=True))
        await backend.log.wait_for_state("running")
        stopping = asyncio.create_task(gateway.gateway.stop(timeout=5))
        answer = await running
        assert answer.streamed == count_text(1, 8)
        await stopping
        with pytest.raises(OSError):
            await gateway.session.get(gateway.url + "/livez")


NATIVE = [{"prompt": "count", "max_tokens": 4}, {"inputs": "count", "parameters": {"max_new_tokens": 4}}]


@pytest.mark.parametrize("body", NATIVE)
async def test_the_native_endpoint_answers_flat_and_says_who_answered(body: dict[str, object]) -> None:
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        answer = await gateway.post("/generate", body)
        assert answer.status == 200
        assert answer.json["generated_text"] == count_text(1, 4)
        assert answer.json["model_used"] == "tiny"
        assert answer.json["was_fallback"] is False


async def test_a_native_error_is_flat() -> None:
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        answer = await gateway.post("/generate", {"max_tokens": 4})
        assert answer.status == 422
        assert isinstance(answer.json["error"], str)
        assert answer.json["error_type"] == "validation_error"
        assert answer.json["correlation_id"] == answer.headers["x-correlation-id"]


async def test_requests_in_flight_are_counted_while_they_run() -> None:
    async with FaultBackend(per_token=0.05) as backend, running_gateway(config(backend)) as gateway:
        running = asyncio.create_task(gateway.chat(stream=True))
        await backend.log.wait_for_state("running")
        text = (await gateway.get("/metrics")).body.decode()
        assert sample(text, "seawall_requests_in_flight", route="tiny") == 1
        await running
        await gateway.chat(model="nope")
        text = (await gateway.get("/metrics")).body.decode()
        assert sample(text, "seawall_requests_in_flight", route="tiny") == 0


async def test_a_refused_reload_shows_in_the_metrics_until_one_is_taken(tmp_path: Path) -> None:
    async with FaultBackend() as backend:
        path = tmp_path / "gateway.yaml"
        path.write_text("backends: {")
        async with running_gateway(config(backend), path) as gateway:
            for text, taken, last in (("backends: {", 0, 0), (config(backend), 1, 1)):
                path.write_text(text)
                assert gateway.gateway.reload() is bool(taken)
                metrics = (await gateway.get("/metrics")).body.decode()
                assert sample(metrics, "seawall_last_reload_successful") == last
                assert sample(metrics, "seawall_reloads_total", result="taken") == taken
                assert sample(metrics, "seawall_reloads_total", result="refused") == 1


#: Heads that the data listener takes, and so the operators' endpoints behind it must.
_ODD_HEADS = {
    "HTTP/1.0 without a host, as load balancers check": b"GET /readyz HTTP/1.0\r\n\r\n",
    "an empty host": b"GET /readyz HTTP/1.1\r\nHost:\r\n\r\n",
    "a header that is not UTF-8": b"GET /readyz HTTP/1.1\r\nHost: x\r\nX-Name: \xff\xe9\r\n\r\n",
    "a long cookie": b"GET /readyz HTTP/1.1\r\nHost: x\r\nCookie: " + b"a" * 20_000 + b"\r\n\r\n",
    "a long query": b"GET /readyz?" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "many headers": b"GET /readyz HTTP/1.1\r\nHost: x\r\n"
    + b"".join(b"X-%d: 1\r\n" % number for number in range(127))
    + b"\r\n",
}


@pytest.mark.parametrize("head", _ODD_HEADS.values(), ids=_ODD_HEADS.keys())
async def test_operators_endpoints_take_every_head_that_the_listener_takes(head: bytes) -> None:
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        [answer] = await talk(int(gateway.url.rpartition(":")[2]), head)
        assert answer.status == 200
        assert answer.header("x-correlation-id")


async def test_an_act_whose_body_is_not_what_its_coding_says_is_refused() -> None:
    act = b"POST /admin/backends/b0/drain HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    act += b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{]"
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        [answer] = await talk(int(gateway.url.rpartition(":")[2]), act)
        assert answer.status == 400
        assert answer.error["correlation_id"] == answer.header("x-correlation-id")


async def test_what_fails_to_be_looked_after_keeps_nothing_else_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: object) -> None:
        raise ValueError("no pressure to be had")

    monkeypatch.setattr(app, "WATCH_INTERVAL", 0.01)
    monkeypatch.setattr(Monitor, "weigh", failing)
    path = tmp_path / "gateway.yaml"
    async with FaultBackend() as one, FaultBackend() as two:
        path.write_text(config(one))
        async with running_gateway(config(one), path) as gateway:
            path.write_text(config(one, two))
            await eventually(lambda: "b1" in gateway.gateway.runtime.endpoints)
    assert "no pressure to be had" in capfd.readouterr().out
