"""What clients write ends in headers, logs, labels, maps and sockets: none of these gives way. Nor do faults of I/O."""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import ssl

import pytest

from gateway.validation.body import parse_body
from gateway.validation.errors import InvalidRequest
from gateway.validation.facts import Limits, check_limits
from tests.integration.test_operations import config
from tests.security.test_desync import BODY, SENTINEL, post
from tests.support.fault_backend import FaultBackend
from tests.support.gateway import running_gateway
from tests.support.hostile import form, part, png
from tests.support.raw_http import talk

ODD_IDS = [
    b"a b",
    b"a\tb",
    b"<script>",
    b"\xff\xfe",
    b"a" * 129,
    b"",
    b"${jndi:ldap://x}",
    b"a;b",
    b'"',
    b"%0d%0aSet-Cookie:x",
]


@pytest.mark.parametrize("given", ODD_IDS)
async def test_a_correlation_id_that_could_do_harm_is_replaced(given: bytes) -> None:
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        data = post(b"X-Correlation-ID: " + given, b"Content-Length: %d" % len(BODY))
        answer, _ = await talk(port, data + SENTINEL)
        own = answer.header("x-correlation-id")
        assert own is not None
        assert re.fullmatch(r"[A-Za-z0-9._:/+=-]{1,128}", own)
        assert own.encode() != given
        (seen,) = backend.log.to("/v1/chat/completions")
        assert seen.headers["x-correlation-id"] == own


async def test_what_clients_write_makes_no_metric_grow() -> None:
    """Models, paths, methods, keys and correlation IDs of a thousand kinds: the label values stay those configured."""
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        await gateway.chat()
        await gateway.chat(model="nobody")
        await gateway.get("/v1/nothing")
        before = _series((await gateway.get("/metrics")).body)
        port = int(gateway.url.rpartition(":")[2])
        for number in range(500):
            body = b'{"model":"m%d","messages":[{"role":"user","content":"x"}]}' % number
            lines = (b"X-Correlation-ID: c%d" % number, b"X-API-Key: k%d" % number, b"X-Session-ID: s%d" % number)
            data = post(*lines, b"Content-Length: %d" % len(body), body=body)
            await talk(port, data + b"GET /v1/p%d?model=m HTTP/1.1\r\nHost: h%d\r\n\r\n" % (number, number) + SENTINEL)
        after = _series((await gateway.get("/metrics")).body)
        assert {name for name in after - before if "m1" in name or "p1" in name} == set()
        assert len(after) <= len(before) + 5


def _series(exposition: bytes) -> set[str]:
    lines = exposition.decode().splitlines()
    return {line.rpartition(" ")[0] for line in lines if line.startswith("seawall_")}


BOMBS = {
    "a billion pixels": png(60_000, 60_000),
    "the largest PNG": png(2**31 - 1, 2**31 - 1),
    "a PNG without pixels": png(0, 0),
    "one row of a PNG": png(2**31 - 1, 1),
}


@pytest.mark.parametrize("case", BOMBS)
def test_an_image_is_refused_by_the_size_it_claims_without_being_decoded(case: str) -> None:
    body = form(part("model", b"m"), part("prompt", b"x"), part("image", BOMBS[case], "a.png"))
    limits = Limits(max_input_chars=None, max_tokens=None, max_pixels=1 << 20, max_steps=None)
    with pytest.raises(InvalidRequest):
        check_limits(parse_body("/v1/images/edits", "multipart/form-data; boundary=bnd", body), limits)


URLS = ["http://127.0.0.1:{port}/", "file:///etc/passwd", "gopher://127.0.0.1:{port}/", "//127.0.0.1:{port}/x"]


@pytest.mark.parametrize("url", URLS)
async def test_no_url_in_a_request_is_ever_fetched_here(url: str) -> None:
    """Images and sounds by URL are the backend's to fetch or not; the gateway talks to configured addresses only."""
    touched = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal touched
        touched += 1
        writer.close()

    inside = await asyncio.start_server(count, "127.0.0.1", 0)
    target = url.format(port=inside.sockets[0].getsockname()[1])
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        content = [{"type": "image_url", "image_url": {"url": target}}, {"type": "text", "text": "x"}]
        await gateway.chat(
            messages=[{"role": "user", "content": content}],
            headers={"Host": "127.0.0.1", "X-Forwarded-Host": target, "X-Original-URL": target, "Referer": target},
        )
        await gateway.post("/v1/images/generations", {"model": "tiny", "prompt": target, "image": target})
        assert len(backend.log.to("/v1/chat/completions")) == 1
        assert "x-original-url" not in backend.log.to("/v1/chat/completions")[0].headers
    inside.close()
    assert touched == 0


FAULTS = [
    OSError(errno.ECONNREFUSED, "refused"),
    OSError(errno.EHOSTUNREACH, "no route"),
    OSError(errno.EMFILE, "too many open files"),
    OSError(errno.ENOBUFS, "no buffers"),
    OSError(errno.EADDRNOTAVAIL, "no port left"),
    ConnectionResetError(errno.ECONNRESET, "reset"),
    BrokenPipeError(errno.EPIPE, "broken"),
    TimeoutError(),
    socket.gaierror(socket.EAI_AGAIN, "name resolution"),
    ssl.SSLError(1, "handshake"),
    ssl.SSLCertVerificationError(1, "certificate"),
]


@pytest.mark.parametrize(
    "fault", FAULTS, ids=lambda fault: f"{type(fault).__name__}-{fault.args[0] if fault.args else 0}"
)
async def test_any_fault_of_connecting_moves_on_to_the_next_backend(
    fault: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        FaultBackend() as one,
        FaultBackend() as two,
        running_gateway(config(one, two).replace("backends: [b0, b1]", "backends: [b0], fallback: [b1]")) as gateway,
    ):
        broken = gateway.gateway.runtime.endpoints["b0"].pool

        class Failing:
            """The loop, but that it connects to the first backend with a fault."""

            def __getattr__(self, name: str) -> object:
                return getattr(gateway.gateway.loop, name)

            async def create_connection(self, *args: object, **kwargs: object) -> object:
                raise fault

        monkeypatch.setattr(broken, "loop", Failing())
        answer = await gateway.chat()
        assert (answer.status, answer.headers["x-seawall-backend"]) == (200, "b1")
        monkeypatch.setattr(gateway.gateway.runtime.endpoints["b1"].pool, "loop", Failing())
        gateway.gateway.runtime.endpoints["b1"].pool.close()
        failed = await gateway.chat()
        assert failed.error["error_type"] in ("backend_unreachable", "model_overloaded")


@pytest.mark.parametrize("after", ["accept", "request", "head", "half", 3, "finish"])
@pytest.mark.parametrize("kind", ["rst", "close"])
async def test_a_connection_lost_at_any_point_ends_in_a_whole_answer_or_a_typed_error(kind: str, after: object) -> None:
    from tests.support.faults import Fault, FaultKind

    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        for stream in (False, True):
            backend.inject(Fault(FaultKind(kind), after=after, times=50))  # type: ignore[arg-type]
            answer = await gateway.chat(stream=stream)
            whole = answer.status == 200 and (answer.frames[-1:] == ["[DONE]"] if stream else answer.text)
            assert whole or answer.error["error_type"] in (
                "generation_failed",
                "backend_unreachable",
                "model_overloaded",
            )
            backend.heal()


async def test_clients_that_reset_at_any_point_leave_nothing_behind() -> None:
    data = post(b"Content-Length: %d" % (len(BODY) + 15), body=BODY[:-1] + b',"stream":true}')
    async with FaultBackend(per_token=0.01) as backend, running_gateway(config(backend)) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        for cut in range(0, len(data) + 1, 9):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data[:cut])
            if cut % 2:
                await writer.drain()
            writer.transport.abort()
            del reader
        async with asyncio.timeout(10):
            while gateway.gateway.server.connections or gateway.gateway.services.in_flight:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert gateway.gateway.server.buffered == 0
        assert gateway.gateway.runtime.endpoints["b0"].in_flight == 0
        assert (await gateway.chat()).status == 200
