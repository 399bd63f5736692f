"""Streams that break after their first content and go on at another endpoint: the client sees nothing of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

import orjson
import pytest

from tests.integration.test_resilience import POLICY, stack
from tests.support.counting_model import count_text
from tests.support.fault_backend import FaultBackend
from tests.support.faults import Fault, FaultKind, fault
from tests.support.gateway import Answer, running_gateway
from tests.support.request_log import SeenRequest

BREAKS = ["rst_mid_stream", "stall", "silent_cut", "engine_death", "giant_frame", "bad_chunk", "malformed_frame"]


def text_of(answer: Answer) -> str:
    """The text of a chat or completion stream."""
    found = ""
    for frame in answer.frames:
        if frame != "[DONE]":
            for choice in orjson.loads(frame).get("choices", ()):
                found += choice.get("text") or choice.get("delta", {}).get("content") or ""
    return found


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Waits for a condition. Raises AssertionError when it does not come."""
    end = monotonic() + seconds
    while not condition():
        assert monotonic() < end
        await asyncio.sleep(0.005)


def documents(answer: Answer) -> list[dict]:  # type: ignore[type-arg]
    """The JSON of a stream's events."""
    return [orjson.loads(frame) for frame in answer.frames if frame != "[DONE]"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("after", [1, 2, 5, 7])
@pytest.mark.parametrize("name", BREAKS)
async def test_a_broken_stream_goes_on_elsewhere_to_the_byte(name: str, after: int, path: str) -> None:
    async with stack() as (gateway, (bad, good)):
        bad.inject(fault(name, after=after))
        asked = {"model": "tiny", "max_tokens": 8, "stream": True}
        asked |= {"messages": [{"role": "user", "content": "count"}]} if "chat" in path else {"prompt": "count"}
        for _ in range(2):  # one of them meets the faulty endpoint first
            answer = await gateway.post(path, asked)
            assert text_of(answer) == count_text(1, 8)
            assert answer.frames[-1] == "[DONE]"
            found = documents(answer)
            assert len({(d["id"], d["created"], d["model"], d["object"]) for d in found}) == 1
            assert [d["choices"][0]["finish_reason"] for d in found if d["choices"]][-1] == "length"
            assert sum("role" in d["choices"][0].get("delta", {}) for d in found) == ("chat" in path)
            assert not any("token_ids" in frame for frame in answer.frames)
        assert sum(1 for _ in good.log.to("/v1/completions")) >= 1


async def test_usage_is_that_of_one_answer() -> None:
    async with stack() as (gateway, (bad, _)):
        bad.inject(fault("rst_mid_stream", after=4))
        options = {"include_usage": True, "continuous_usage_stats": True}
        for _ in range(2):
            answer = await gateway.chat(stream=True, stream_options=options)
            undisturbed = await gateway.chat()
            found = documents(answer)
            assert found[-1]["usage"] == undisturbed.json["usage"]
            assert [d["usage"]["completion_tokens"] for d in found] == [*range(9), 8]
        log = (await gateway.get("/metrics")).body.decode()
        assert 'seawall_stream_resumes_total{route="tiny",outcome="token_ids"} 2.0' in log
        assert 'seawall_wasted_tokens_total{route="tiny",cause="interrupted"} 0.0' in log


async def test_the_request_tells_of_the_break_and_the_resume() -> None:
    async with stack() as (gateway, (bad, _)):
        bad.inject(fault("engine_death", after=4))
        for number in range(2):
            await gateway.chat(stream=True, headers={"x-correlation-id": f"told-{number}"})
        stories = [(await gateway.get(f"/requests/told-{n}")).json for n in range(2)]
        attempts = max((s.get("requests", [s])[0]["attempts"] for s in stories), key=len)
        assert [(a["why"], a["outcome"]) for a in attempts] == [("primary", "generation_failed"), ("resume", "ok")]
        assert [a["backend"] for a in attempts] == ["b0", "b1"]


async def test_a_second_break_is_mended_and_a_third_is_not() -> None:
    policy = POLICY.replace("attempts: 3", "attempts: 5")
    async with stack(primaries=4, policy=policy) as (gateway, backends):
        for backend in backends[:3]:
            backend.inject(fault("rst_mid_stream", after=2))
        seen = []
        for _ in range(4):
            answer = await gateway.chat(stream=True, headers={"connection": "close"})
            whole = answer.frames[-1] == "[DONE]"
            seen.append(whole)
            assert text_of(answer) == (count_text(1, 8) if whole else count_text(1, 6))
            if not whole:
                assert answer.error["error_type"] == "generation_failed"
        assert True in seen
        assert False in seen


async def test_a_stream_never_goes_back_to_the_endpoint_that_it_broke_at() -> None:
    async with stack(primaries=1) as (gateway, (bad,)):
        bad.inject(fault("rst_mid_stream", after=3, times=1))
        answer = await gateway.chat(stream=True)
        assert answer.error["error_type"] == "generation_failed"
        assert text_of(answer) == count_text(1, 3)
        assert len(list(bad.log.to("/v1/chat/completions"))) == 1


async def test_a_stalled_stream_goes_back_when_nobody_else_is_left_and_others_are_answered_there() -> None:
    async with stack() as (gateway, (stalls, gone)):
        await gone.kill()
        stalls.inject(fault("stall", after=3, times=1))
        stream = asyncio.create_task(gateway.chat(stream=True, headers={"x-correlation-id": "there-and-back"}))
        await until(lambda: any(seen.tokens_sent >= 3 for seen in stalls.log))
        while not stream.done():
            assert (await gateway.chat()).status == 200
        answer = await stream
        assert answer.frames[-1] == "[DONE]"
        assert text_of(answer) == count_text(1, 8)
        attempts = (await gateway.get("/requests/there-and-back")).json["attempts"]
        assert [(a["backend"], a["outcome"]) for a in attempts if a["backend"] == "b0"] == [
            ("b0", "inference_timeout"),
            ("b0", "ok"),
        ]


@pytest.mark.parametrize(("named", "goes_on"), [("whole", True), ("{backend: whole, model: other}", False)])
async def test_only_a_fallback_that_knows_the_model_by_the_same_name_goes_on(named: str, goes_on: bool) -> None:
    async with FaultBackend() as bad, FaultBackend() as good:
        bad.inject(fault("rst_mid_stream", after=3))
        text = f"""
server: {{listen: '127.0.0.1:0'}}
backends: {{broken: {{url: '{bad.url}', kind: vllm}}, whole: {{url: '{good.url}', kind: vllm}}}}
routes: [{{model: tiny, backends: [broken], fallback: [{named}]}}]
"""
        async with running_gateway(text) as gateway:
            answer = await gateway.chat(stream=True)
            assert (answer.frames[-1] == "[DONE]") is goes_on
            assert text_of(answer) == count_text(1, 8 if goes_on else 3)
            assert len(list(good.log.to("/v1/completions"))) == goes_on


@pytest.mark.parametrize("how", ["killed", "stalled"])
async def test_many_streams_that_break_at_once_all_go_on_whatever_the_budget(how: str) -> None:
    policy = POLICY.replace("{ratio: 1, min_per_second: 100}", "{ratio: 0, min_per_second: 0}")
    async with stack(primaries=1, fallback=True, policy=policy) as (gateway, (bad, good)):
        assert (await gateway.chat()).status == 200
        bad.per_token = 0.02
        bad.inject(*([fault("stall", after=5)] if how == "stalled" else []))
        streams = [asyncio.create_task(gateway.chat(stream=True, max_tokens=20)) for _ in range(20)]
        await until(lambda: sum(seen.tokens_sent >= 5 for seen in bad.log) >= 20)
        if how == "killed":
            await bad.kill()
        for answer in await asyncio.gather(*streams):
            assert text_of(answer) == count_text(1, 20)
            assert answer.frames[-1] == "[DONE]"
        assert len(good.log.to("/v1/completions")) == 20


async def test_resume_can_be_switched_off() -> None:
    policy = POLICY + "    stream: {resume: false}\n"
    async with stack(policy=policy) as (gateway, backends):
        for backend in backends:
            backend.inject(fault("rst_mid_stream", after=3))
        answer = await gateway.chat(stream=True)
        assert answer.error["error_type"] == "generation_failed"
        assert b"return_token_ids" not in next(iter(backends[0].log)).body


async def test_a_refused_continuation_does_not_reach_the_client() -> None:
    async with stack() as (gateway, backends):
        for backend in backends:
            backend.inject(
                fault("rst_mid_stream", after=3, path="/v1/chat/*"), fault("context_length", path="/v1/completions")
            )
        answer = await gateway.chat(stream=True)
        assert answer.error["error_type"] == "generation_failed"
        assert {a["error_type"] for a in answer.error["details"]["attempts"]} == {"generation_failed"}
        assert text_of(answer) == count_text(1, 3)


@pytest.mark.parametrize("name", ["hang", "slow_first_token", "oom", "html_200", "overloaded", "rst_before_head"])
async def test_a_resume_that_fails_is_tried_elsewhere(name: str) -> None:
    async with stack(primaries=3) as (gateway, backends):
        for backend in backends[:2]:
            backend.inject(
                fault("rst_mid_stream", after=3, path="/v1/chat/*"),
                fault(name, path="/v1/completions", **({"seconds": 1.0} if name == "slow_first_token" else {})),
            )
        for _ in range(3):
            answer = await gateway.chat(stream=True)
            assert text_of(answer) == count_text(1, 8)
            assert answer.frames[-1] == "[DONE]"


@pytest.mark.parametrize("fields", [{"temperature": 0, "presence_penalty": 1.0}, {"seed": 7}])
async def test_a_deterministic_request_is_replayed_where_ids_will_not_do(fields: dict[str, object]) -> None:
    async with stack() as (gateway, (bad, good)):
        bad.inject(fault("rst_mid_stream", after=5))
        for _ in range(2):
            answer = await gateway.chat(stream=True, **fields)
            assert text_of(answer) == count_text(1, 8)
            assert answer.frames[-1] == "[DONE]"
            assert len({d["id"] for d in documents(answer)}) == 1
        assert len(list(good.log.to("/v1/completions"))) == 0


async def test_the_client_gets_comments_while_another_endpoint_is_asked() -> None:
    policy = POLICY.replace("first_token: 300ms", "first_token: 2s") + "    stream: {keepalive: 50ms}\n"
    async with stack(policy=policy) as (gateway, backends):
        for backend in backends:
            backend.inject(
                fault("rst_mid_stream", after=3, path="/v1/chat/*"),
                fault("slow_first_token", seconds=0.3, path="/v1/completions"),
            )
        answer = await gateway.chat(stream=True)
        assert text_of(answer) == count_text(1, 8)
        assert answer.body.count(b": keepalive\n\n") >= 1  # a busy machine may be late for some


async def test_a_client_that_leaves_during_a_resume_aborts_it() -> None:
    async with stack() as (gateway, backends):
        for backend in backends:
            backend.inject(fault("rst_mid_stream", after=3, path="/v1/chat/*"), fault("hang", path="/v1/completions"))
        body = {"model": "tiny", "messages": [{"role": "user", "content": "count"}], "stream": True}
        response = await gateway.session.post(gateway.url + "/v1/chat/completions", json=body)

        def asked() -> list[SeenRequest]:
            return [seen for backend in backends for seen in backend.log.to("/v1/completions")]

        await until(lambda: bool(asked()))
        response.close()
        await until(lambda: asked()[0].state == "aborted")


async def test_a_slow_client_holds_the_resumed_backend_back_and_loses_nothing() -> None:
    policy = POLICY.replace("total: 5s", "total: 60s").replace("idle: 300ms", "idle: 5s")
    async with stack(policy=policy + "    limits: {max_tokens: 100000}\n") as (gateway, backends):
        for backend in backends:
            backend.model.length = backend.model.max_model_len = 60_000
            backend.inject(fault("rst_mid_stream", after=50, path="/v1/chat/*"))
        body = {
            "model": "tiny",
            "messages": [{"role": "user", "content": "count"}],
            "stream": True,
            "max_tokens": 50_000,
        }
        response = await gateway.session.post(gateway.url + "/v1/chat/completions", json=body, read_bufsize=1024)
        await asyncio.sleep(0.5)  # not reading
        sent = sum(seen.tokens_sent for backend in backends for seen in backend.log)
        assert sent < 50_000
        answer = Answer(200, {}, await response.read())
        assert text_of(answer) == count_text(1, 50_000)
        assert answer.frames[-1] == "[DONE]"


class Cutter:
    """A TCP proxy that resets its n-th connection's answer after `cuts[n]` bytes."""

    def __init__(self, port: int, cuts: list[int]) -> None:
        self._port, self._cuts = port, cuts

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to, out = await asyncio.open_connection("127.0.0.1", self._port)
        up = asyncio.create_task(self._pump(reader, out))
        left = self._cuts.pop() if self._cuts else 1 << 40
        while data := await to.read(1024):
            writer.write(data[:left])
            left -= len(data)
            if left <= 0:
                await writer.drain()
                break
        up.cancel()
        writer.transport.abort() if left <= 0 else writer.close()
        out.transport.abort()

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)


async def test_a_connection_cut_at_any_byte_is_never_seen() -> None:
    cuts = list(range(40, 2600, 61))
    async with FaultBackend() as one, FaultBackend() as two:
        for backend in (one, two):
            backend.inject("split")
        cutter = Cutter(one.port, list(cuts))
        server = await asyncio.start_server(cutter.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        text = f"""
server: {{listen: '127.0.0.1:0'}}
backends:
  cut: {{url: 'http://127.0.0.1:{port}', kind: vllm, weight: 1000, health: {{interval: 1h}}}}
  whole: {{url: '{two.url}', kind: vllm}}
routes: [{{model: tiny, backends: [cut], fallback: [whole]}}]
policies:
  default:
    retry: {{attempts: 3, budget: {{ratio: 1, min_per_second: 1000}}}}
    circuit_breaker: {{consecutive_failures: 1000, min_requests: 10000}}
"""
        async with running_gateway(text) as gateway:
            while cutter._cuts:
                answer = await gateway.chat(stream=True, messages=[{"role": "user", "content": "euro"}], max_tokens=9)
                assert text_of(answer) == "1€ 2€ 3"
                assert answer.frames[-1] == "[DONE]"
        server.close()


async def test_a_malformed_frame_may_have_held_text_so_no_answer_with_one_looks_whole() -> None:
    async with stack(primaries=1) as (gateway, (backend,)):
        backend.inject(fault("malformed_frame", after=3))
        answer = await gateway.chat(stream=True)
        assert text_of(answer) == count_text(1, 3)
        assert answer.error["error_type"] == "generation_failed"


async def test_a_finished_answer_whose_last_frames_do_not_come_is_completed_with_its_usage() -> None:
    policy = POLICY.replace("idle: 300ms", "idle: 20s").replace("total: 5s", "total: 30s")
    async with stack(policy=policy) as (gateway, backends):
        for backend in backends:
            backend.inject(fault("hang", after="finish"))
        started = monotonic()
        answer = await gateway.chat(stream=True, stream_options={"include_usage": True})
        assert monotonic() - started < 10
        assert text_of(answer) == count_text(1, 8)
        assert documents(answer)[-1]["usage"]["completion_tokens"] == 8
        assert answer.frames[-1] == "[DONE]"
        assert sum(len(backend.log.to("/v1/completions")) for backend in backends) == 0


async def test_a_model_that_writes_the_end_marker_does_not_end_the_stream() -> None:
    async with stack(primaries=1) as (gateway, (backend,)):
        said = b'data: {"choices":[{"index":0,"delta":{"content":"data: [DONE]"},"finish_reason":null}]}\n\n'
        backend.inject(fault("frame", after=2, body=said), fault("rst_mid_stream", after=4))
        answer = await gateway.chat(stream=True)
        assert answer.error["error_type"] == "generation_failed"


@pytest.mark.parametrize("after", [1, 5])
async def test_an_end_marker_without_a_finish_reason_is_no_end(after: int) -> None:
    async with stack() as (gateway, (bad, _)):
        end = fault("frame", after=after, body=b"data: [DONE]\n\n")
        bad.inject(end, fault("silent_cut", after=after))
        for _ in range(2):
            answer = await gateway.chat(stream=True)
            assert text_of(answer) == count_text(1, 8)
            assert answer.frames.count("[DONE]") == 1
            assert answer.frames[-1] == "[DONE]"


async def test_a_stream_of_nothing_but_its_end_marker_is_a_failed_attempt() -> None:
    async with stack() as (gateway, (bad, _)):
        bad.inject(Fault(FaultKind.RESPOND, headers={"content-type": "text/event-stream"}, body=b"data: [DONE]\n\n"))
        for _ in range(2):
            assert text_of(await gateway.chat(stream=True)) == count_text(1, 8)


@pytest.mark.parametrize("kind", ["sglang", "llamacpp", "ollama"])
async def test_a_server_of_any_kind_that_always_says_why_has_to(kind: str) -> None:
    async with FaultBackend() as backend:
        text = f"""
server: {{listen: '127.0.0.1:0'}}
backends: {{b: {{url: '{backend.url}', kind: {kind}, health: {{path: /health}}}}}}
routes: [{{model: tiny, backends: [b]}}]
"""
        async with running_gateway(text) as gateway:
            more = [fault("frame", after="finish", body=b'data: {"choices":[]}\n\n') for _ in range(3)]
            backend.inject(*more)
            answer = await gateway.chat(stream=True, stream_options={"include_usage": True})
            assert text_of(answer) == count_text(1, 8)
            assert answer.frames[-1] == "[DONE]"
            backend.heal()
            end = fault("frame", after=3, body=b"data: [DONE]\n\n")
            backend.inject(end, fault("silent_cut", after=3))
            answer = await gateway.chat(stream=True)
            assert answer.error["error_type"] == "generation_failed"
            assert "[DONE]" not in answer.frames


@pytest.mark.parametrize("kind", ["openai", "tgi"])
async def test_a_server_of_a_kind_that_need_not_say_why_is_believed(kind: str) -> None:
    async with FaultBackend() as backend:
        text = f"""
server: {{listen: '127.0.0.1:0'}}
backends: {{b: {{url: '{backend.url}', kind: {kind}}}}}
routes: [{{model: tiny, backends: [b]}}]
"""
        async with running_gateway(text) as gateway:
            end = fault("frame", after=3, body=b"data: [DONE]\n\n")
            backend.inject(end, fault("silent_cut", after=3))
            answer = await gateway.chat(stream=True)
            assert text_of(answer) == count_text(1, 3)
            assert answer.frames[-1] == "[DONE]"
