"""Clients that are slow, large or endless: bounded in time and memory, with the limits set short."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import sys
import time
import zlib
from pathlib import Path
from time import monotonic

import psutil
import pytest

from gateway import ops
from gateway.config import load_text
from gateway.descriptors import for_clients
from gateway.http import server
from tests.integration.test_operations import config
from tests.security.test_desync import BODY, POST, SENTINEL, chunks, get, post
from tests.support.fault_backend import FaultBackend
from tests.support.faults import Fault, FaultKind
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.processes import Process, free_port
from tests.support.raw_http import talk
from tests.support.serving import gateway_yaml
from tests.support.waiting import eventually

TIMEOUTS = "timeouts: {header: 200ms, body: 200ms, idle: 300ms}"
SMALL = "max_body: 4KiB, max_buffered: 8KiB, max_header_size: 1KiB"
#: Timeouts here, the sweep's interval, and a slow machine.
PATIENCE = 8.0


def port_of(gateway: RunningGateway) -> int:
    return int(gateway.url.rpartition(":")[2])


SLOW = {
    "nothing": (b"", None),
    "half a request line": (b"GET /v1/mo", 408),
    "a head without an end": (b"GET /v1/models HTTP/1.1\r\nHost: x\r\n", 408),
    "no body": (post(b"Content-Length: 100", body=b""), 408),
    "half a body": (post(b"Content-Length: 100", body=b'{"model"'), 408),
    "half a chunk": (chunks(b"ff\r\n{"), 408),
    "a chunk of 2**63 - 1 bytes": (chunks(b"7fffffffffffffff\r\n{"), 408),
    "no last chunk": (chunks(b"1\r\n{\r\n"), 408),
    "no end of the trailers": (chunks(b"0\r\nX-T: a\r\n"), 408),
}


@pytest.mark.parametrize("case", SLOW)
async def test_a_client_that_stops_sending_is_answered_and_closed(case: str) -> None:
    data, status = SLOW[case]
    async with FaultBackend() as backend, running_gateway(config(backend, server=TIMEOUTS)) as gateway:
        answers = await talk(port_of(gateway), data, timeout=PATIENCE)
        assert [answer.status for answer in answers] == ([status] if status else [])
        assert gateway.gateway.server.connections == 0
        assert gateway.gateway.server.buffered == 0


async def test_a_client_that_sent_all_while_the_gateway_stood_still_is_not_taken_for_slow() -> None:
    whole = post(b"Content-Length: %d" % len(BODY), body=BODY)
    async with FaultBackend() as backend, running_gateway(config(backend, server=TIMEOUTS)) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(gateway))
        writer.write(whole[:-5])
        server = gateway.gateway.server
        await eventually(lambda: any(not connection.idle for connection in server._connections))
        assert server._sweep is not None
        asyncio.get_running_loop().call_later(0.25, writer.write, whole[-5:])
        # Till the sweep is late: its timer goes off before what came meanwhile is read.
        time.sleep(server._sweep.when() + 0.2 - monotonic())  # noqa: ASYNC251
        assert b" 200 " in await reader.readline()
        writer.close()


@pytest.mark.parametrize(
    "beginning", [b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-A: ", POST + b"Content-Length: 4000\r\n\r\n"]
)
async def test_a_client_that_sends_a_byte_now_and_then_does_not_hold_its_connection(beginning: bytes) -> None:
    """Slowloris, and its kin with the body: each byte comes well within the timeout."""
    async with FaultBackend() as backend, running_gateway(config(backend, server=TIMEOUTS)) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(gateway))
        writer.write(beginning)
        started = monotonic()
        answer = asyncio.create_task(reader.read())
        while not answer.done() and monotonic() - started < PATIENCE:
            writer.write(b"a")
            await asyncio.wait([answer], timeout=0.02)
        assert answer.done()
        with contextlib.suppress(ConnectionResetError):  # a byte that crosses the close makes the kernel reset it
            assert b"408" in await answer
        await eventually(lambda: gateway.gateway.server.connections == 0)
        writer.close()


async def test_many_slow_connections_leave_room_for_a_good_request() -> None:
    async with FaultBackend() as backend, running_gateway(config(backend, server=TIMEOUTS)) as gateway:
        slow = [await asyncio.open_connection("127.0.0.1", port_of(gateway)) for _ in range(200)]
        for _, writer in slow:
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n")
        assert (await gateway.chat()).status == 200
        async with asyncio.timeout(PATIENCE):
            while gateway.gateway.server.connections > 1:  # noqa: ASYNC110 - the good client's keep-alive may stay
                await asyncio.sleep(0.02)
        for _, writer in slow:
            writer.close()


async def test_a_client_that_does_not_read_is_cut_off_and_holds_no_memory() -> None:
    large = b'{"id":"x","object":"chat.completion","choices":[{"index":0,"finish_reason":"stop","message":{"role":'
    large += b'"assistant","content":"%b"}}]}' % (b"a" * (7 << 20))
    async with FaultBackend() as backend, running_gateway(config(backend, server=TIMEOUTS)) as gateway:
        backend.inject(Fault(FaultKind.RESPOND, body=large))
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(gateway), limit=1024)
        writer.transport.pause_reading()
        for _ in range(20):
            writer.write(post(b"Content-Length: %d" % len(BODY)))
        async with asyncio.timeout(PATIENCE):
            while gateway.gateway.server.connections == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            while gateway.gateway.server.connections:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        asked = len(backend.log.to("/v1/chat/completions"))
        assert asked < 5, "answers piled up that nobody reads"
        writer.close()


LARGE = {
    "many headers": (get(b"/v1/models", *(b"X-%d: a" % n for n in range(129))), 431),
    "a long header": (get(b"/v1/models", b"X-A: " + b"a" * 40_000), 431),
    "a long target": (get(b"/v1/" + b"a" * 40_000), 431),
    "an endless header name": (b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + b"a" * 70_000, 431),
    "an endless trailer": (chunks(b"0\r\nX-T: " + b"a" * 70_000), 431),
    "endless trailers": (chunks(b"0\r\n" + b"X-T: aaaaaaaa\r\n" * 5000), 431),
    "an endless chunk extension": (chunks(b"1;" + b"a" * 70_000), 431),
    "a long length": (post(b"Content-Length: 20971521"), 413),
    "a huge length": (post(b"Content-Length: 9223372036854775807"), 413),
}


@pytest.mark.parametrize("case", LARGE)
async def test_what_is_too_large_is_refused_early(case: str) -> None:
    data, status = LARGE[case]
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        (answer,) = await talk(port_of(gateway), *(data[at : at + 4096] for at in range(0, len(data), 4096)))
        assert answer.status == status
        assert answer.error["error_type"] == ("payload_too_large" if status == 413 else "invalid_input")
        assert not backend.log.to("/v1/chat/completions")


async def test_a_chunked_body_is_counted_as_it_comes_and_the_count_stays_right() -> None:
    async with FaultBackend() as backend, running_gateway(config(backend, server=SMALL)) as gateway:
        data = chunks(b"1000\r\n%b\r\n" % (b"a" * 4096) * 2)
        for _ in range(5):
            (answer,) = await talk(port_of(gateway), data)
            assert (answer.status, answer.error["error_type"]) == (413, "payload_too_large")
            assert gateway.gateway.server.buffered == 0


async def test_bodies_held_over_all_connections_are_bounded() -> None:
    async with FaultBackend() as backend, running_gateway(config(backend, server=SMALL)) as gateway:
        held = []
        for _ in range(2):
            _, writer = await asyncio.open_connection("127.0.0.1", port_of(gateway))
            writer.write(post(b"Content-Length: 4096", body=b"a" * 4000))
            held.append(writer)
        async with asyncio.timeout(PATIENCE):
            while gateway.gateway.server.buffered < 8000:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        (answer,) = await talk(port_of(gateway), post(b"Content-Length: 4000", body=b"a" * 4000))
        assert (answer.status, answer.error["error_type"]) == (503, "model_overloaded")
        for writer in held:
            writer.close()
        async with asyncio.timeout(PATIENCE):
            while gateway.gateway.server.buffered:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (await gateway.chat()).status == 200


async def test_requests_sent_ahead_of_an_operators_answer_leave_nothing_behind() -> None:
    """The connection goes over to another protocol with requests of its client still in it."""
    async with FaultBackend(first_token=0.2) as backend, running_gateway(config(backend)) as gateway:
        ahead = post(b"Content-Length: %d" % len(BODY)) + get(b"/livez") + post(b"Content-Length: %d" % len(BODY)) * 3
        answers = await talk(port_of(gateway), ahead + post(b"Content-Length: 5000", body=b"a" * 100))
        assert [answer.status for answer in answers] == [200, 200]
        assert gateway.gateway.server.buffered == 0


async def test_a_request_sent_ahead_does_not_time_out_the_one_under_way() -> None:
    async with (
        FaultBackend(first_token=1.5) as backend,
        running_gateway(config(backend, server=TIMEOUTS)) as gateway,
    ):
        answers = await talk(port_of(gateway), post(b"Content-Length: %d" % len(BODY)) + SENTINEL)
        assert [answer.status for answer in answers] == [200, 200]


STREAMED = BODY[:-1] + b',"stream":true,"max_tokens":2000}'


async def test_connections_beyond_the_limit_are_closed_at_once_where_all_others_are_busy() -> None:
    async with (
        FaultBackend(per_token=0.05) as backend,
        running_gateway(config(backend, server="max_connections: 3")) as gateway,
    ):
        held = [await asyncio.open_connection("127.0.0.1", port_of(gateway)) for _ in range(3)]
        for reader, writer in held:
            writer.write(post(b"Content-Length: %d" % len(STREAMED), body=STREAMED))
            assert b"200 OK" in await reader.readline()
        assert await talk(port_of(gateway), get(b"/v1/models")) == []
        for _, writer in held:
            writer.close()


async def test_who_only_opens_connections_keeps_nobody_out_and_nobodys_answer_is_cut() -> None:
    async with (
        FaultBackend(per_token=0.01) as backend,
        running_gateway(config(backend, server="max_connections: 20")) as gateway,
    ):
        port = port_of(gateway)
        running = asyncio.create_task(gateway.chat(stream=True, max_tokens=100))
        await backend.log.wait_for_state("running")
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(60)]
        assert [answer.status for answer in await talk(port, SENTINEL)] == [200]
        assert gateway.gateway.server.connections <= 20
        assert b"[DONE]" in (await running).body
        for _, writer in held:
            writer.close()


def limited_gateway(path: Path, port: int, files: int) -> Process:
    """A gateway that may open so many files, and no more if it asks."""
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(path), "--port", str(port)]
    return Process(["bash", "-c", f'ulimit -n {files} && exec "$@"', "-", *command])


async def test_more_connections_than_files_leave_some_for_backends_and_for_the_next_client(tmp_path: Path) -> None:
    path, port = tmp_path / "gateway.yaml", free_port()
    async with FaultBackend() as backend:
        path.write_text(gateway_yaml(backend.url))
        with limited_gateway(path, port, 300) as gateway:
            await asyncio.to_thread(gateway.wait_for_line, "listening")
            assert '"max_connections":100,"open_files":300' in gateway.wait_for_line("fewer_connections")
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(400)]
            data = post(b"Connection: close", b"Content-Length: %d" % len(BODY))
            for _ in range(5):
                assert [answer.status for answer in await talk(port, data)] == [200]
            assert psutil.Process(gateway.pid).num_fds() < 200
            for _, writer in held:
                writer.close()


@pytest.mark.parametrize(
    ("files", "clients"), [(None, 10_000), (100_000, 10_000), (11_124, 10_000), (11_123, 9_999), (1024, 462), (10, 1)]
)
def test_clients_may_have_what_backends_leave_and_half_at_least(files: int | None, clients: int) -> None:
    assert for_clients(load_text(gateway_yaml("http://h")), files) == clients


JUNK = {
    "behind HTTP/1.0": post(b"Content-Length: %d" % len(BODY)).replace(b"HTTP/1.1", b"HTTP/1.0") + b"POST junk",
    "behind the last of a connection": post(b"Connection: close", b"Content-Length: %d" % len(BODY)) + b"POST junk",
    "behind a request": post(b"Content-Length: %d" % len(BODY)) + b"\0\1\2",
    "behind a chunked one": chunks(b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)) + b"\0\1\2",
}


@pytest.mark.parametrize("case", JUNK)
async def test_the_room_of_a_body_is_given_back_once_whatever_comes_behind_it(case: str) -> None:
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        answers = await talk(port_of(gateway), JUNK[case])
        assert answers[0].status == 200
        await eventually(lambda: gateway.gateway.server.connections == 0)
        assert gateway.gateway.server.buffered == 0


def packed(size: int) -> bytes:
    """A chat request that takes `size` bytes and hardly any when packed."""
    body = gzip.compress(BODY[:-1] + b',"user":"' + b"a" * (size - len(BODY) - 10) + b'"}')
    return post(b"Connection: close", b"Content-Encoding: gzip", b"Content-Length: %d" % len(body), body=body)


async def test_an_unpacked_body_takes_the_room_of_what_it_has_become() -> None:
    server = "max_body: 64KiB, max_buffered: 100KiB"
    async with FaultBackend(per_token=0.2) as backend, running_gateway(config(backend, server=server)) as gateway:
        port = port_of(gateway)
        running = asyncio.create_task(talk(port, packed(60_000)))
        await backend.log.wait_for_state("running")
        assert gateway.gateway.server.buffered > 59_000
        (refused,) = await talk(port, packed(60_000))
        assert (refused.status, refused.error["error_type"]) == (503, "model_overloaded")
        assert [answer.status for answer in await running] == [200]
        await eventually(lambda: gateway.gateway.server.connections == 0)
        assert gateway.gateway.server.buffered == 0


KEYS = "auth: {keys: [{name: team, key: secret}]}"


async def test_who_has_no_key_does_not_fill_the_room_of_all_bodies() -> None:
    """Large bodies that trickle in would stay for hours, and others would be refused."""
    async with FaultBackend() as backend, running_gateway(config(backend) + KEYS) as gateway:
        begun = POST + b"Content-Length: 10000000\r\n\r\n" + b" " * 100_000
        (refused,) = await talk(port_of(gateway), begun)
        assert (refused.status, refused.header("www-authenticate")) == (401, "Bearer")
        assert refused.error["error_type"] == "authentication_failed"
        body = BODY[:-1] + b',"user":"' + b"a" * 200_000 + b'"}'
        known = post(
            b"Connection: close", b"Authorization: Bearer secret", b"Content-Length: %d" % len(body), body=body
        )
        assert [answer.status for answer in await talk(port_of(gateway), known)] == [200]
        assert gateway.gateway.server.buffered == 0


BOMBS = {
    "gzip": (gzip.compress(bytes(50 << 20)), b"gzip"),
    "deflate": (zlib.compress(bytes(50 << 20)), b"deflate"),
    "JSON in gzip": (gzip.compress(BODY[:-1] + b',"x":"' + b"a" * (30 << 20) + b'"}'), b"gzip"),
}


@pytest.mark.parametrize("case", BOMBS)
async def test_a_body_that_swells_is_refused_before_it_has(case: str) -> None:
    packed, coding = BOMBS[case]
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        data = post(b"Content-Encoding: " + coding, b"Content-Length: %d" % len(packed), body=packed)
        answer, _ = await talk(port_of(gateway), data + SENTINEL)
        assert (answer.status, answer.error["error_type"]) == (413, "payload_too_large")
        assert not backend.log.to("/v1/chat/completions")


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "gzip, identity", "compress", "x" * 200])
async def test_a_content_coding_that_is_not_read_here_is_refused(coding: str) -> None:
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        packed = gzip.compress(gzip.compress(BODY))
        data = post(b"Content-Encoding: " + coding.encode(), b"Content-Length: %d" % len(packed), body=packed)
        answer, _ = await talk(port_of(gateway), data + SENTINEL)
        assert (answer.status, answer.error["error_type"]) == (400, "invalid_input")


async def test_who_does_not_read_an_operators_answer_is_counted_and_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "expose", lambda *_: ("text/plain", b"#" * 2**23))
    monkeypatch.setattr(ops, "_PATIENCE", 1.0)
    monkeypatch.setattr(server, "SWEEP_INTERVAL", 0.1)
    async with (
        FaultBackend() as backend,
        running_gateway(config(backend, server="max_connections: 3")) as gateway,
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(3):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port_of(gateway))))
            client.sendall(get(b"/metrics"))
        await eventually(lambda: len(gateway.gateway.server._lent) == 3)
        assert await talk(port_of(gateway), get(b"/readyz")) == []
        await eventually(lambda: not gateway.gateway.server._lent)
        [answer] = await talk(port_of(gateway), get(b"/readyz"))
        assert answer.status == 200
        await eventually(lambda: not gateway.gateway.server._lent)  # one that was read and is over counts no more
