"""The fault backend says exactly what it is told to say, seen through a raw socket."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.counting_model import count_text
from tests.support.fault_backend import FaultBackend
from tests.support.faults import PRESETS, Fault, fault, from_json
from tests.support.processes import FaultProcess, ProcessFailedError, occupied_port, status_of
from tests.support.vllm_answers import AUDIO, VllmModel

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "count"}]}
IDS = {"return_token_ids": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}


@pytest.fixture
async def backend() -> AsyncIterator[FaultBackend]:
    async with FaultBackend(VllmModel(length=20)) as started:
        yield started


class Client:
    """A raw connection that reads bytes as they come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, backend: FaultBackend) -> Client:
        return cls(*await asyncio.open_connection(backend.host, backend.port))

    async def send(self, path: str, body: Any = None, method: str = "POST", headers: str = "") -> None:
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {len(data)}\r\n\r\n"
        self.writer.write(head.encode() + data)

    async def head(self) -> tuple[int, dict[str, str]]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split(" ")[1]), dict(pairs)

    async def unary(self) -> tuple[int, bytes]:
        status, headers = await self.head()
        return status, await self.reader.readexactly(int(headers["content-length"]))

    async def chunk(self) -> bytes:
        size = int(await self.reader.readline(), 16)
        data = await self.reader.readexactly(size)
        assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def stream(self) -> list[bytes]:
        """All chunks of a well-formed stream."""
        status, headers = await self.head()
        assert (status, headers["transfer-encoding"]) == (200, "chunked")
        chunks = []
        while data := await self.chunk():
            chunks.append(data)
        return chunks

    def close(self) -> None:
        self.writer.transport.abort()


@pytest.fixture
async def client(backend: FaultBackend) -> AsyncIterator[Client]:
    opened = await Client.open(backend)
    yield opened
    opened.close()


def events(chunks: list[bytes]) -> list[Any]:
    """Parsed events; `[DONE]` as itself."""
    data = [line[6:] for line in b"".join(chunks).split(b"\n\n") if line]
    return [line if line == b"[DONE]" else json.loads(line) for line in data]


def text_of(chunks: list[bytes]) -> str:
    return "".join(
        choice.get("text", "") + choice.get("delta", {}).get("content", "")
        for event in events(chunks)
        if isinstance(event, dict)
        for choice in event.get("choices", [])
    )


async def test_unary_chat_counts_and_carries_the_request_id(client: Client) -> None:
    await client.send("/v1/chat/completions", CHAT | {"max_tokens": 3}, headers="X-Request-Id: corr-1\r\n")
    status, body = await client.unary()
    answer = json.loads(body)
    assert (status, answer["id"]) == (200, "chatcmpl-corr-1")
    assert answer["choices"][0]["message"]["content"] == "1 2 3"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3


async def test_stream_has_one_frame_a_chunk_with_ids_usage_and_done(client: Client) -> None:
    await client.send("/v1/chat/completions", CHAT | IDS | {"stream": True, "max_tokens": 2})
    first, one, two, usage, done = events(await client.stream())
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert first["prompt_token_ids"][-1] == 3
    assert [frame["choices"][0]["token_ids"] for frame in (one, two)] == [[1001], [1002]]
    assert (one["usage"]["completion_tokens"], two["choices"][0]["finish_reason"]) == (1, "length")
    assert (usage["choices"], usage["usage"]["completion_tokens"], done) == ([], 2, b"[DONE]")


@pytest.mark.parametrize("cut", [0, 1, 7, 19])
async def test_answer_continued_from_token_ids_is_the_undisturbed_answer(client: Client, cut: int) -> None:
    request = {"model": "tiny", "messages": [{"role": "user", "content": "count from 500"}], "stream": True}
    await client.send("/v1/chat/completions", request | IDS)
    frames = events(await client.stream())
    prompt, delivered = frames[0]["prompt_token_ids"], [f["choices"][0]["token_ids"][0] for f in frames[1:21]]
    await client.send("/v1/completions", {"prompt": prompt + delivered[:cut], "max_tokens": 100, "stream": True})
    rest = text_of(await client.stream())
    assert count_text(500, 499 + cut) + rest == count_text(500, 519)


async def test_stop_string_is_held_back_from_the_text_but_not_from_the_ids(client: Client) -> None:
    request = {"model": "tiny", "prompt": "x", "stop": [" 4 5"], "stream": True, "max_tokens": 9}
    await client.send("/v1/completions", request | IDS)
    chunks = await client.stream()
    assert text_of(chunks) == "1 2 3"
    choices = [event["choices"][0] for event in events(chunks)[:-2]]
    assert (choices[0]["text"], choices[0]["token_ids"]) == ("", [1001])
    assert (choices[-1]["finish_reason"], choices[-1]["stop_reason"]) == ("stop", " 4 5")


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "param"),
    [
        ("/v1/chat/completions", CHAT | {"max_tokens": 5000}, 400, "BadRequestError", "max_tokens"),
        ("/v1/completions", {"prompt": "x " * 5000}, 400, "BadRequestError", "input_tokens"),
        ("/v1/chat/completions", CHAT | {"model": "nope"}, 404, "NotFoundError", "model"),
        ("/v1/chat/completions", {"model": "tiny"}, 400, "Bad Request", "body.messages"),
        ("/v1/chat/completions", CHAT | {"temperature": -3.0}, 400, "BadRequestError", "temperature"),
    ],
)
async def test_refusals_are_worded_as_vllm_words_them(
    client: Client, path: str, body: Any, status: int, kind: str, param: str
) -> None:
    await client.send(path, body)
    got, raw = await client.unary()
    error = json.loads(raw)["error"]
    assert (got, error["code"], error["type"], error["param"]) == (status, status, kind, param)


async def test_speech_images_embeddings_and_metrics_answer(client: Client) -> None:
    await client.send("/v1/audio/speech", {"input": "hi"})
    assert (await client.unary())[1] == AUDIO
    await client.send("/v1/images/generations", {"prompt": "a", "size": "2x2", "n": 2})
    assert len(json.loads((await client.unary())[1])["data"]) == 2
    await client.send("/v1/embeddings", {"model": "tiny", "input": ["a", "b c"]})
    assert json.loads((await client.unary())[1])["usage"]["prompt_tokens"] == 3
    await client.send("/v1/embeddings", {"model": "tiny", "input": "a", "encoding_format": "base64"})
    assert isinstance(json.loads((await client.unary())[1])["data"][0]["embedding"], str)
    await client.send("/metrics", method="GET")
    assert b'vllm:num_requests_running{engine="0",model_name="tiny"} 0.0' in (await client.unary())[1]


async def test_rst_after_n_tokens_delivers_them_and_resets(backend: FaultBackend, client: Client) -> None:
    backend.inject(fault("rst", after=3))
    await client.send("/v1/completions", {"prompt": "x", "stream": True})
    await client.head()
    text = text_of([await client.chunk() for _ in range(3)])
    with pytest.raises(ConnectionResetError):
        await client.chunk()
    assert text == "1 2 3"
    assert (backend.log[0].state, backend.log[0].tokens_sent) == ("cut", 3)


async def test_silent_cut_is_a_well_formed_end_without_done(backend: FaultBackend, client: Client) -> None:
    backend.inject(fault("silent_cut", after=2))
    await client.send("/v1/chat/completions", CHAT | {"stream": True})
    chunks = await client.stream()
    assert text_of(chunks) == "1 2"
    assert b"[DONE]" not in b"".join(chunks)
    assert b'"finish_reason":"' not in b"".join(chunks)


async def test_engine_death_is_an_error_frame_then_done(backend: FaultBackend, client: Client) -> None:
    backend.inject(fault("engine_death", after=2))
    await client.send("/v1/chat/completions", CHAT | {"stream": True})
    *_, dead, done = await client.stream()
    assert dead.startswith(b'data: {"error": {"message": "EngineCore encountered an issue. ')
    assert dead.endswith(b'"type": "InternalServerError", "param": null, "code": 500}}\n\n')
    assert done == b"data: [DONE]\n\n"
    await client.send("/v1/chat/completions", CHAT)
    status, body = await client.unary()
    assert (status, json.loads(body)["error"]["type"]) == (500, "InternalServerError")


async def test_split_keeps_the_bytes_whatever_the_borders(backend: FaultBackend, client: Client) -> None:
    backend.inject(fault("split", size=3), fault("tokens_per_frame", size=4))
    await client.send("/v1/completions", {"prompt": "x", "stream": True, "max_tokens": 20})
    chunks = await client.stream()
    assert max(map(len, chunks)) == 3
    assert text_of(chunks) == count_text(1, 20)
    assert len(events(chunks)) == 6  # five frames of four tokens and [DONE]


async def test_stalled_stream_goes_on_when_healed(backend: FaultBackend, client: Client) -> None:
    backend.inject(fault("stall", after=5))
    await client.send("/v1/completions", {"prompt": "x", "stream": True, "max_tokens": 20})
    await backend.log.wait_for(lambda log: log.total and log[0].tokens_sent == 5)
    backend.heal()
    assert text_of(await client.stream()) == count_text(1, 20)


async def test_client_that_leaves_is_seen_at_once_and_as_aborted(backend: FaultBackend, client: Client) -> None:
    backend.inject(fault("hang"))
    await client.send("/v1/chat/completions", CHAT)
    await backend.log.wait_for_state("running")
    client.close()
    [seen] = await backend.log.wait_for_state("aborted", timeout=0.5)
    assert (seen.path, seen.status) == ("/v1/chat/completions", None)


async def test_client_that_leaves_a_stream_is_seen_with_its_tokens(backend: FaultBackend, client: Client) -> None:
    backend.inject(fault("stall", after=4))
    await client.send("/v1/chat/completions", CHAT | {"stream": True})
    await backend.log.wait_for(lambda log: log.total and log[0].tokens_sent == 4)
    client.close()
    [seen] = await backend.log.wait_for_state("aborted", timeout=0.5)
    assert (seen.status, seen.tokens_sent) == (200, 4)


async def test_stale_connection_closes_only_when_reused(backend: FaultBackend, client: Client) -> None:
    backend.inject("stale_connection")
    await client.send("/v1/chat/completions", CHAT)
    assert (await client.unary())[0] == 200
    await client.send("/v1/chat/completions", CHAT)
    assert await client.reader.read() == b""


BYTES: list[tuple[str, Fault, str]] = [
    ("HTML with 200", fault("html_200"), r"text/html.*<h1>It works!"),
    ("empty 200", fault("empty_200"), r"content-length: 0\r\n.*\r\n\r\n$"),
    ("malformed chunked", fault("malformed_chunked"), r"5\r\n\{\"id\"\r\nXYZ\r\n"),
    ("not HTTP", fault("not_http"), r"^-ERR unknown command\r\n$"),
    ("1xx first", fault("informational"), r"^HTTP/1.1 100 .*HTTP/1.1 103 .*HTTP/1.1 200 OK"),
    ("HTTP/1.0 without length", fault("http10"), r"^HTTP/1\.0 200 OK\r\n(?!.*content-length)"),
    ("connection: close", fault("connection_close"), r"connection: close\r\n"),
    ("large header", fault("large_header", pad=100_000), r"x-large: a{100000}\r\n"),
    ("overloaded", fault("overloaded"), r"^HTTP/1.1 503 .*retry-after: 1\r\n"),
]


@pytest.mark.parametrize(("fault_on", "pattern"), [(case[1], case[2]) for case in BYTES], ids=[c[0] for c in BYTES])
async def test_bytes_on_the_wire(backend: FaultBackend, client: Client, fault_on: Fault, pattern: str) -> None:
    backend.inject(fault_on)
    await client.send("/v1/chat/completions", CHAT, headers="connection: close\r\n")
    raw = (await client.reader.read()).decode("latin-1")
    assert re.search(pattern, raw, re.DOTALL), raw[:500]


@pytest.mark.parametrize(("name", "share_sent"), [("half_json", 1.0), ("half_json_wrong_length", 0.5)])
async def test_half_of_the_right_answer_with_the_right_or_the_wrong_length(
    backend: FaultBackend, client: Client, name: str, share_sent: float
) -> None:
    backend.inject(name)
    await client.send("/v1/chat/completions", CHAT | {"stream": True}, headers="connection: close\r\n")
    status, headers = await client.head()
    body = await client.reader.read()
    assert (status, headers["content-type"]) == (200, "application/json")
    assert len(body) == pytest.approx(int(headers["content-length"]) * share_sent, abs=1)
    with pytest.raises(ValueError):
        json.loads(body)


async def test_endless_headers_end_only_with_the_client(backend: FaultBackend, client: Client) -> None:
    backend.inject("endless_headers")
    await client.send("/v1/chat/completions", CHAT)
    await client.reader.readexactly(1 << 20)
    client.close()
    assert await backend.log.wait_for_state("aborted")


async def test_times_and_path_choose_the_requests_that_are_struck(backend: FaultBackend, client: Client) -> None:
    backend.inject(fault("oom", times=2, path="/v1/chat/*"))
    statuses = []
    for path in ("/v1/models", *["/v1/chat/completions"] * 3):
        await client.send(path, CHAT, method="GET" if path == "/v1/models" else "POST")
        statuses.append((await client.unary())[0])
    assert statuses == [200, 500, 500, 200]


async def test_probability_strikes_its_share_and_repeats_with_the_seed() -> None:
    async def statuses() -> list[int]:
        async with FaultBackend(seed=7) as backend:
            backend.inject(fault("internal_error", probability=0.5))
            client = await Client.open(backend)
            for _ in range(40):
                await client.send("/v1/models", method="GET")
            got = [(await client.unary())[0] for _ in range(40)]
            client.close()
            return got

    first = await statuses()
    assert 10 < first.count(500) < 30
    assert first == await statuses()


async def test_killed_backend_refuses_until_started_again_on_its_port(backend: FaultBackend, client: Client) -> None:
    backend.inject("hang")
    await client.send("/v1/chat/completions", CHAT)
    await backend.log.wait_for_state("running")
    await backend.kill()
    with pytest.raises(ConnectionResetError):
        await client.reader.read()
    with pytest.raises(ConnectionRefusedError):
        await Client.open(backend)
    backend.heal()
    await backend.start()
    again = await Client.open(backend)
    await again.send("/health", method="GET")
    assert await again.unary() == (200, b"")
    again.close()


async def test_concurrency_limit_shows_as_waiting_requests(backend: FaultBackend, client: Client) -> None:
    backend.set_concurrency(1)
    backend.inject(fault("hang", after="head"))
    others = [await Client.open(backend) for _ in range(2)]
    for other in others:
        await other.send("/v1/chat/completions", CHAT)
    await backend.log.wait_for_state("running", count=2)
    await client.send("/metrics", method="GET")
    metrics = (await client.unary())[1].decode()
    assert re.findall(r"vllm:num_requests_(\w+)\{.*\} (\S+)", metrics) == [("running", "1.0"), ("waiting", "1.0")]
    for other in others:
        other.close()


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_can_be_asked_for_over_http(name: str) -> None:
    assert from_json({"kind": name, "times": 1}).kind is PRESETS[name].kind


@pytest.mark.parametrize(
    "bad", [{"kind": "nope"}, {"kind": "rst", "aftr": 1}, {"kind": "end"}, {"kind": "rst", "after": "x"}]
)
def test_bad_faults_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        from_json(bad)


def test_process_is_controlled_over_http_and_by_signals() -> None:
    with FaultProcess("--model", "tiny") as process:
        process.inject("engine_dead", {"kind": "split", "size": 2, "times": 1})
        process.wait_ready(process.url + "/health")
        assert [seen["path"] for seen in process.requests()] == ["/health"]
        process.inject("kill")
        assert status_of(process.url + "/health") is None
        process.heal()
        assert status_of(process.url + "/health") == 200
        process.kill()
        assert process.returncode == -9
        with FaultProcess(port=process.port) as again:
            again.terminate()
            assert again.wait() == 0


def test_process_that_cannot_listen_reports_its_output() -> None:
    with occupied_port() as port, pytest.raises(ProcessFailedError, match="address already in use"):
        FaultProcess(port=port)
