"""Traces from end to end: client, gateway, backend, and a collector that decodes what it is sent."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest
from opentelemetry.semconv._incubating.attributes import (
    gen_ai_attributes,
    http_attributes,
    server_attributes,
    url_attributes,
)
from opentelemetry.semconv.attributes import (
    client_attributes,
    error_attributes,
    network_attributes,
    user_agent_attributes,
)

from gateway.observe import tracing
from tests.support.counting_model import count_text
from tests.support.fault_backend import FaultBackend
from tests.support.faults import fault
from tests.support.gateway import running_gateway
from tests.support.otlp import Collector

TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT_SPAN = "b7ad6b7169203331"
POLICY = "policies: {default: {retry: {backoff: {initial: 1ms, max: 2ms}}}}"


@pytest.fixture(autouse=True)
def prompt_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "INTERVAL", 0.02)


def config(
    collector: Collector, *backends: FaultBackend, fallback: FaultBackend | None = None, more: str = POLICY
) -> str:
    every = [*backends, *([fallback] if fallback is not None else [])]
    lines = "\n".join(f"  b{number}: {{url: '{backend.url}', kind: vllm}}" for number, backend in enumerate(every))
    names = ", ".join(f"b{number}" for number in range(len(backends)))
    second = f", fallback: [b{len(backends)}]" if fallback is not None else ""
    routes = f"routes: [{{model: tiny, backends: [{names}]{second}}}]"
    return (
        f"server: {{listen: '127.0.0.1:0'}}\nbackends:\n{lines}\n{routes}\n"
        f"observability: {{otlp: '{collector.url}'}}\n{more}\n"
    )


def traceparent_of(backend: FaultBackend) -> list[str]:
    return backend.log.to("/v1/chat/completions")[-1].headers["traceparent"].split("-")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_is_one_server_span_with_a_client_span_that_the_backend_continues(stream: bool) -> None:
    more = {"stream_options": {"include_usage": True}} if stream else {}
    headers = {"traceparent": f"00-{TRACE}-{CLIENT_SPAN}-01", "X-Correlation-ID": "trace-1"}
    async with (
        Collector() as collector,
        FaultBackend() as backend,
        running_gateway(config(collector, backend)) as gateway,
    ):
        assert (await gateway.chat(stream=stream, headers=headers, temperature=0, **more)).status == 200
        server, client = await collector.wait_for(2)
        assert (server.kind, server.name) == ("server", "POST /v1/chat/completions")
        assert (server.trace_id, server.parent) == (TRACE, CLIENT_SPAN)
        assert (client.kind, client.name) == ("client", "chat tiny")
        assert (client.trace_id, client.parent) == (TRACE, server.span_id)
        assert traceparent_of(backend) == ["00", TRACE, client.span_id, "01"]
        assert server.start <= client.start <= client.end <= server.end
        assert abs(server.end / 1e9 - time.time()) < 60
        assert server.attributes["http.response.status_code"] == 200
        assert server.attributes["http.route"] == "/v1/chat/completions"
        assert server.attributes["server.port"] == int(gateway.url.rpartition(":")[2])
        assert server.attributes["seawall.route"] == "tiny"
        assert server.resource["service.name"] == "seawall"
        for span in (server, client):
            assert span.attributes["seawall.correlation_id"] == "trace-1"
            assert not span.failed
        told = client.attributes
        assert told["gen_ai.operation.name"] == "chat"
        assert told["gen_ai.provider.name"] == "vllm"
        assert (told["gen_ai.request.model"], told["gen_ai.response.model"]) == ("tiny", "tiny")
        assert told["gen_ai.request.max_tokens"] == 8
        assert told["gen_ai.usage.output_tokens"] == 8
        assert told["gen_ai.usage.input_tokens"] > 0
        assert told["gen_ai.response.id"].startswith("chatcmpl-")
        assert (told["server.address"], told["server.port"]) == ("127.0.0.1", backend.port)
        assert ("gen_ai.response.time_to_first_chunk" in told) is stream


async def test_a_retry_and_a_fallback_are_spans_of_their_own_and_events_of_the_request() -> None:
    async with (
        Collector() as collector,
        FaultBackend() as one,
        FaultBackend() as two,
        running_gateway(config(collector, one, fallback=two)) as gateway,
    ):
        one.inject("engine_dead")
        assert (await gateway.chat()).status == 200
        server, *clients = await collector.wait_for(5)
        assert [client.attributes["seawall.backend"] for client in clients] == ["b0", "b0", "b0", "b1"]
        assert [client.failed for client in clients] == [True, True, True, False]
        assert [client.attributes["seawall.attempt.number"] for client in clients] == [1, 2, 3, 4]
        *_, failed, good = clients
        assert failed.attributes["error.type"] == "generation_failed"
        assert failed.attributes["http.response.status_code"] == 500
        assert good.attributes["http.request.resend_count"] == 3
        assert good.attributes["seawall.fallback"] is True
        assert len({span.span_id for span in (server, *clients)}) == 5
        assert [name for name, _ in server.events] == ["seawall.retry", "seawall.retry", "seawall.fallback"]
        name, told = server.events[2]
        assert (name, told["seawall.backend"], told["error.type"]) == ("seawall.fallback", "b1", "generation_failed")
        assert not server.failed
        assert traceparent_of(one)[2] == failed.span_id
        assert traceparent_of(two)[2] == good.span_id


async def test_the_attempt_that_opened_the_circuit_says_so() -> None:
    breaker = "circuit_breaker: {consecutive_failures: 1, max_ejected: 1.0}"
    once = f"policies: {{default: {{{breaker}, retry: {{attempts: 1}}, admission: {{max_wait: 0s}}}}}}"
    async with (
        Collector() as collector,
        FaultBackend() as backend,
        running_gateway(config(collector, backend, more=once)) as gateway,
    ):
        backend.inject("engine_dead")
        assert (await gateway.chat()).status == 502
        server, client = await collector.wait_for(2)
        assert [name for name, _ in client.events] == ["seawall.breaker.open"]
        assert (server.failed, server.attributes["error.type"]) == (True, "generation_failed")


@pytest.mark.parametrize(
    ("body", "status", "failed"),
    [({"model": "nope"}, 404, False), ({"messages": "no list"}, 422, False)],
)
async def test_a_refusal_is_a_span_without_attempts(body: dict[str, object], status: int, failed: bool) -> None:
    async with (
        Collector() as collector,
        FaultBackend() as backend,
        running_gateway(config(collector, backend)) as gateway,
    ):
        answer = await gateway.chat(**body)
        assert answer.status == status
        (span,) = await collector.wait_for(1)
        assert span.attributes["error.type"] == answer.error["error_type"]
        assert span.failed is failed
        assert span.parent == ""


async def test_what_the_client_does_not_sample_is_not_sent_and_stays_unsampled_for_the_backend() -> None:
    async with (
        Collector() as collector,
        FaultBackend() as backend,
        running_gateway(config(collector, backend)) as gateway,
    ):
        await gateway.chat(headers={"traceparent": f"00-{TRACE}-{CLIENT_SPAN}-00"})
        assert traceparent_of(backend)[1] == TRACE
        assert traceparent_of(backend)[3] == "00"
        await gateway.chat(headers={"X-Correlation-ID": "sampled"})
        spans = await collector.wait_for(2)
        assert {span.attributes["seawall.correlation_id"] for span in spans} == {"sampled"}


async def test_the_standard_sampler_setting_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    async with (
        Collector() as collector,
        FaultBackend() as backend,
        running_gateway(config(collector, backend)) as gateway,
    ):
        await gateway.chat()
        assert traceparent_of(backend)[3] == "00"
        await gateway.chat(headers={"traceparent": f"00-{TRACE}-{CLIENT_SPAN}-01"})
        spans = await collector.wait_for(2)
        assert {span.trace_id for span in spans} == {TRACE}


async def test_prompts_answers_and_secrets_are_in_no_span() -> None:
    keys = f"auth: {{keys: [{{name: team-a, key: sk-very-secret-key}}]}}\n{POLICY}"
    async with (
        Collector() as collector,
        FaultBackend() as backend,
        running_gateway(config(collector, backend, more=keys)) as gateway,
    ):
        messages = [{"role": "user", "content": "zebra-prompt"}]
        await gateway.chat(messages=messages, headers={"Authorization": "Bearer sk-very-secret-key"})
        spans = await collector.wait_for(2)
        text = repr(spans)
        assert "zebra" not in text
        assert "very-secret" not in text
        assert spans[0].attributes["seawall.key"] == "team-a"


async def test_a_collector_that_is_away_costs_nothing_and_is_counted() -> None:
    collector = Collector()
    await collector.start()
    await collector.stop()
    async with FaultBackend() as backend, running_gateway(config(collector, backend)) as gateway:
        began = time.monotonic()
        for _ in range(20):
            assert (await gateway.chat()).status == 200
        assert time.monotonic() - began < 5
        gateway.gateway.services.tracing._exporter._sender.shutdown()  # what repeats for seconds gives up at once
        async with asyncio.timeout(15):
            while 'spans_total{result="failed"} 0.0' in (await gateway.get("/metrics")).body.decode():
                pass


async def test_a_full_queue_drops_spans_and_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "INTERVAL", 60.0)
    async with (
        Collector() as collector,
        FaultBackend() as backend,
        running_gateway(config(collector, backend)) as gateway,
    ):
        gateway.gateway.services.tracing._exporter._limit = 4
        for _ in range(5):
            await gateway.chat()
        assert 'seawall_trace_spans_total{result="dropped"} 6.0' in (await gateway.get("/metrics")).body.decode()


async def test_stopping_sends_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "INTERVAL", 60.0)
    async with Collector() as collector, FaultBackend() as backend:
        async with running_gateway(config(collector, backend)) as gateway:
            await gateway.chat()
            assert collector.spans == []
        assert len(await collector.wait_for(2)) == 2


async def test_every_name_without_our_prefix_is_of_the_semantic_conventions() -> None:
    modules = (gen_ai_attributes, http_attributes, server_attributes, url_attributes)
    modules += (client_attributes, error_attributes, network_attributes, user_agent_attributes)
    known = {value for module in modules for value in vars(module).values() if isinstance(value, str)}
    async with (
        Collector() as collector,
        FaultBackend() as one,
        FaultBackend() as two,
        running_gateway(config(collector, one, fallback=two)) as gateway,
    ):
        one.inject("engine_dead")
        await gateway.chat(stream=True, headers={"User-Agent": "zsh"}, stream_options={"include_usage": True})
        spans = await collector.wait_for(5)
        names = {name for span in spans for name in span.attributes}
        assert len(names) > 20
        assert {name for name in names if not name.startswith("seawall.")} - known == set()


def test_nothing_of_opentelemetry_is_imported_while_tracing_is_off() -> None:
    code = "import sys, gateway.app; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_a_hedge_is_a_span_beside_the_beaten_one() -> None:
    policy = "policies: {default: {balance: round_robin, hedge: {after: 50ms, budget: 1}}}"
    async with (
        Collector() as collector,
        FaultBackend() as one,
        FaultBackend() as two,
        running_gateway(config(collector, one, two, more=policy)) as gateway,
    ):
        one.inject(fault("slow_first_token", seconds=3.0))
        while not (hedged := [span for span in collector.spans if span.events]):
            count = len(collector.spans)
            assert (await gateway.chat()).status == 200
            await collector.wait_for(count + 1)
        (server,) = hedged
        assert [name for name, _ in server.events] == ["seawall.hedge"]
        await collector.wait_for(3)
        beaten, good = sorted(
            (span for span in collector.spans if span.parent == server.span_id),
            key=lambda span: span.attributes["seawall.attempt.number"],
        )
        assert beaten.attributes["seawall.attempt.beaten"] is True
        assert not beaten.failed
        assert beaten.start < good.start < beaten.end
        assert good.attributes["seawall.attempt.why"] == "hedge"


async def test_a_resumed_stream_is_two_spans_one_after_the_other() -> None:
    async with (
        Collector() as collector,
        FaultBackend() as one,
        FaultBackend() as two,
        running_gateway(config(collector, one, two)) as gateway,
    ):
        one.inject(fault("rst_mid_stream", times=1))
        answer = await gateway.chat(stream=True, max_tokens=40)
        for _ in range(40):  # until the endpoint that breaks is chosen
            if answer.headers["x-seawall-backend"] == "b0":
                break
            answer = await gateway.chat(stream=True, max_tokens=40)
        assert answer.streamed == count_text(1, 40)
        while not (resumed := [span for span in collector.spans if span.events]):
            await collector.wait_for(len(collector.spans) + 1)
        (server,) = resumed
        assert [name for name, _ in server.events] == ["seawall.resume"]
        broken, good = sorted(
            (span for span in collector.spans if span.parent == server.span_id), key=lambda span: span.start
        )
        assert broken.failed
        assert not good.failed
        assert broken.start < broken.end <= good.start <= good.end
        assert not server.failed
