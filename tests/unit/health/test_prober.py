from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from backends.dialect import Dialect, ResponseHead, Usage
from backends.registry import dialect_for
from backends.signals import LoadSignals
from gateway.health.prober import HealthState, Prober, ProbeResult, ProbeState, ProbeTarget
from policies.outcome import ErrorKind, Failure
from tests.support.fault_backend import FaultBackend

HEALTHY, UNHEALTHY, LOADING = ProbeState.HEALTHY, ProbeState.UNHEALTHY, ProbeState.LOADING


@dataclass
class Settings:
    path: str | None = None
    interval: float = 5.0
    timeout: float = 10.0
    probe: str = "http"
    healthy_after: int = 2
    unhealthy_after: int = 3


class KindDialect:
    """A server that names its errors' kinds: `{"kind": "model_loading"}`."""

    name = "vllm"
    health_path = "/health"
    metrics_path: str | None = None

    def __init__(self, name: str = "vllm", metrics_path: str | None = None) -> None:
        self.name = name
        self.metrics_path = metrics_path

    def classify(self, path: str, head: ResponseHead, body: bytes) -> Failure | None:
        if head.status == 200:
            return None
        try:
            return Failure(ErrorKind(json.loads(body)["kind"]), status=head.status)
        except ValueError:
            return Failure(ErrorKind.GENERATION_FAILED, status=head.status)

    def classify_frame(self, data: bytes) -> Failure | None:
        return None

    def usage(self, body: bytes) -> Usage | None:
        return None


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answers(status: int = 200, text: str = "", **headers: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=text, headers=headers)

    return answer


def failing(kind: ErrorKind, status: int = 503) -> Answer:
    return answers(status, json.dumps({"kind": kind.value}))


class Backend:
    """A real server on a real socket whose answers are set by path; it can go away and come back."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {"/health": answers()}
        self.seen: list[tuple[str, str, bytes, dict[str, str]]] = []
        self.port = 0
        self._runner: web.ServerRunner | None = None

    async def start(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append((request.method, request.path, await request.read(), dict(request.headers)))
        return await self.answers[request.path](request)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Watch:
    """A prober whose waits between probes end when the test says so."""

    def __init__(self) -> None:
        self.results: asyncio.Queue[ProbeResult] = asyncio.Queue()
        self.waits: list[float] = []
        self._sleepers: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()
        self._began = asyncio.Event()  # a wait has
        self.prober = Prober(self.results.put_nowait, sleep=self._sleep, rand=lambda: 0.0)

    async def _sleep(self, delay: float) -> None:
        self.waits.append(delay)
        sleeper = asyncio.get_running_loop().create_future()
        self._sleepers.put_nowait(sleeper)
        self._began.set()
        await sleeper

    async def first(self) -> ProbeResult:
        return await asyncio.wait_for(self.results.get(), 10)

    async def next(self) -> ProbeResult:
        """The result of the probe after the next wait."""
        sleeper = await asyncio.wait_for(self._sleepers.get(), 10)
        while sleeper.cancelled():  # a wait that was cut short
            sleeper = await asyncio.wait_for(self._sleepers.get(), 10)
        self._began.clear()
        sleeper.set_result(None)
        return await self.first()

    async def miss(self) -> float:
        """Requests miss the endpoint while it is not probed; how long until it is, all the same, as was asked for."""
        await self._began.wait()
        self._began.clear()
        self.prober.missed("llama-a")
        await self._began.wait()
        return self.waits[-1]


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    backend = Backend()
    await backend.start()
    yield backend
    await backend.stop()


@pytest.fixture
async def watch() -> AsyncIterator[Watch]:
    watch = Watch()
    await watch.prober.start()
    yield watch
    await watch.prober.stop()


def target(url: str, dialect: Dialect | None = None, **settings: object) -> ProbeTarget:
    return ProbeTarget("llama-a", url, Settings(**settings), dialect or KindDialect())  # type: ignore[arg-type]


async def probe(watch: Watch, probed: ProbeTarget) -> ProbeResult:
    watch.prober.update([probed])
    return await watch.first()


async def test_a_server_that_is_up(backend: Backend, watch: Watch) -> None:
    result = await probe(watch, target(backend.url))
    assert (result.endpoint, result.healthy, result.state, result.state_changed) == ("llama-a", True, HEALTHY, True)
    assert 0 < result.duration < 10
    assert not (await watch.next()).state_changed


async def missed(watch: Watch, times: int) -> list[float]:
    """Requests miss the endpoint as soon as it has been probed, so many times; the waits to the next probe."""
    waits = []
    for _ in range(times):
        waits.append(await asyncio.wait_for(watch.miss(), 10))
        await watch.next()
    return waits


async def test_one_that_requests_could_not_reach_is_probed_soon_and_less_and_less_so(
    backend: Backend, watch: Watch
) -> None:
    await probe(watch, target(backend.url))
    assert await missed(watch, 6) == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0], abs=0.09)
    await watch.next()
    assert await missed(watch, 1) == pytest.approx([0.1], abs=0.09)


async def test_one_that_is_down_is_probed_each_second_however_often_requests_miss_it(
    backend: Backend, watch: Watch
) -> None:
    await backend.stop()
    await probe(watch, target(backend.url))
    assert await missed(watch, 3) == pytest.approx([1.0] * 3, abs=0.09)


@pytest.mark.parametrize(
    ("answer", "state", "message"),
    [
        (answers(204), HEALTHY, ""),
        (answers(429), HEALTHY, ""),
        (answers(500, "Traceback: secret"), UNHEALTHY, "answers with status 500"),
        (failing(ErrorKind.MODEL_OVERLOADED), UNHEALTHY, "answers with status 503"),
        (failing(ErrorKind.MODEL_LOADING), LOADING, "loading its model"),
        (failing(ErrorKind.MODEL_LOADING_FAILED), ProbeState.FAILED, "its model cannot be loaded"),
        (answers(404), UNHEALTHY, "answers with status 404"),
        (answers(302, Location="/elsewhere"), UNHEALTHY, "redirects (302); redirects are not followed"),
        (answers(200, "x" * 300_000), UNHEALTHY, "its answer is too long"),
    ],
)
async def test_what_an_answer_says(
    backend: Backend, watch: Watch, answer: Answer, state: ProbeState, message: str
) -> None:
    backend.answers["/health"] = answer
    result = await probe(watch, target(backend.url))
    assert (result.state, result.message, result.healthy) == (state, message, state is HEALTHY)
    assert [path for _, path, _, _ in backend.seen] == ["/health"]


@pytest.mark.parametrize(
    ("kind", "path", "status", "body", "state"),
    [
        (
            "llamacpp",
            "/health",
            503,
            '{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}',
            LOADING,
        ),
        ("vllm", "/health", 503, "", UNHEALTHY),  # its engine is dead
        ("openai", "/v1/models", 401, '{"error":{"message":"Incorrect API key provided"}}', UNHEALTHY),
        ("triton", "/v2/health/ready", 200, "", HEALTHY),
    ],
)
async def test_servers_own_ways_of_answering(
    backend: Backend, watch: Watch, kind: str, path: str, status: int, body: str, state: ProbeState
) -> None:
    backend.answers |= {path: answers(status, body), "/metrics": answers(404)}
    assert (await probe(watch, target(backend.url, dialect_for(kind)))).state is state


async def test_a_vllm_server_whole(watch: Watch) -> None:
    async with FaultBackend() as vllm:
        result = await probe(watch, target(vllm.url, dialect_for("vllm"), probe="generate"))
        assert (result.state, result.message) == (HEALTHY, "")
        assert result.load is not None
        assert (result.load.running, result.load.waiting, result.load.generation_tokens) == (0, 0, 0)


async def test_a_server_that_is_down(backend: Backend, watch: Watch) -> None:
    await backend.stop()
    result = await probe(watch, target(backend.url))
    assert (result.state, result.message) == (UNHEALTHY, "cannot connect: connection refused")


async def test_a_name_that_nobody_knows(watch: Watch) -> None:
    result = await probe(watch, target("http://no-such-host.invalid:1"))
    assert (result.state, result.message) == (UNHEALTHY, "its host name cannot be resolved")


async def test_a_server_that_answered_while_the_prober_stood_still(watch: Watch, backend: Backend) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        ready = asyncio.Event()
        asyncio.get_running_loop().call_later(0.15, ready.set)
        time.sleep(0.3)  # noqa: ASYNC251 - the prober's process too
        await ready.wait()
        return web.Response()

    backend.answers["/health"] = answer
    result = await probe(watch, target(backend.url, timeout=0.1))
    assert (result.state, result.message) == (HEALTHY, "")


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n\r\n"])
async def test_a_server_that_is_slow(watch: Watch, head: bytes) -> None:
    release = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await release.wait()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    result = await probe(watch, target(f"http://127.0.0.1:{port}", timeout=0.05))
    assert (result.state, result.message) == (UNHEALTHY, "no answer within 0.05 s")
    release.set()
    server.close()


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x00", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 banana\r\n\r\n", b""])
async def test_what_is_no_http(watch: Watch, garbage: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(garbage)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    result = await probe(watch, target(f"http://127.0.0.1:{port}"))
    assert (result.state, result.message) == (UNHEALTHY, "the connection broke or carried no HTTP")
    server.close()


async def test_a_server_that_fails_now_and_then_stays_in_use(backend: Backend, watch: Watch) -> None:
    await probe(watch, target(backend.url))
    for _ in range(2):
        backend.answers["/health"] = answers(500)
        assert (await watch.next()).healthy
        assert (await watch.next()).healthy
        backend.answers["/health"] = answers()
        assert (await watch.next()).healthy


async def test_a_server_that_goes_is_out_after_three_failures_and_back_within_about_an_interval(
    backend: Backend, watch: Watch
) -> None:
    await probe(watch, target(backend.url, interval=10.0))
    await backend.stop()
    down = [await watch.next() for _ in range(3)]
    assert [result.healthy for result in down] == [True, True, False]
    assert [result.state_changed for result in down] == [False, False, True]
    await backend.start()
    back = [await watch.next() for _ in range(2)]
    assert [result.healthy for result in back] == [False, True]
    assert back[1].state_changed
    assert watch.waits[:5] == [10.0, 1.0, 1.0, 1.0, 1.0]


async def test_waits_are_jittered_downwards(backend: Backend) -> None:
    watch = Watch()
    watch.prober = Prober(watch.results.put_nowait, sleep=watch._sleep, rand=lambda: 0.999)
    await watch.prober.start([target(backend.url, interval=10.0)])
    await watch.first()
    await watch.next()
    assert watch.waits[0] == pytest.approx(8.0, abs=0.01)
    await watch.prober.stop()


async def test_probes_carry_the_endpoints_headers_and_take_its_path(backend: Backend, watch: Watch) -> None:
    backend.answers["/ping"] = answers()
    await probe(watch, replace(target(backend.url, path="/ping"), headers={"Authorization": "Bearer k"}))
    [(method, path, _, headers)] = backend.seen
    assert (method, path, headers["Authorization"]) == ("GET", "/ping", "Bearer k")


async def test_an_update_keeps_what_is_equal_restarts_what_changed_and_ends_the_rest(
    backend: Backend, watch: Watch
) -> None:
    same, other = target(backend.url), replace(target(backend.url), name="b")
    watch.prober.update([same, other])
    assert {(await watch.first()).endpoint for _ in range(2)} == {"llama-a", "b"}
    changed = replace(other, model="m")
    watch.prober.update([same, changed])
    restarted = await watch.first()
    assert (restarted.endpoint, restarted.state_changed) == ("b", True)
    watch.prober.update([])
    await watch.prober.stop()
    assert watch.results.empty()
    assert len(backend.seen) == 3


async def test_a_listener_that_raises_does_not_end_the_probing(backend: Backend, watch: Watch) -> None:
    calls = asyncio.Queue[ProbeResult]()

    def broken(result: ProbeResult) -> None:
        calls.put_nowait(result)
        raise RuntimeError

    prober = Prober(broken, sleep=lambda delay: asyncio.sleep(0), rand=lambda: 0.0)
    await prober.start([target(backend.url)])
    for _ in range(2):
        await asyncio.wait_for(calls.get(), 10)
    await prober.stop()


METRICS = b"vllm:num_requests_running 2\nvllm:generation_tokens_total %d\n"


def metrics(tokens: Callable[[], int]) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=METRICS % tokens())

    return answer


async def test_a_sleeping_engine_gets_no_requests(backend: Backend, watch: Watch) -> None:
    sleeping = 'vllm:engine_sleep_state{engine="0",sleep_state="awake"} 0.0\n'
    backend.answers["/metrics"] = answers(200, sleeping)
    result = await probe(watch, target(backend.url, KindDialect(metrics_path="/metrics")))
    assert (result.state, result.healthy, result.message) == (ProbeState.ASLEEP, False, "asleep")


async def test_load_signals_come_with_the_result(backend: Backend, watch: Watch) -> None:
    backend.answers["/metrics"] = metrics(lambda: 7)
    result = await probe(watch, target(backend.url, KindDialect(metrics_path="/metrics")))
    assert result.load == LoadSignals(running=2, generation_tokens=7)


@pytest.mark.parametrize("answer", [answers(500), answers(200, "<html>"), answers(200, "x" * 5_000_000)])
async def test_metrics_that_fail_say_nothing_of_its_health(backend: Backend, watch: Watch, answer: Answer) -> None:
    backend.answers["/metrics"] = answer
    result = await probe(watch, target(backend.url, KindDialect(metrics_path="/metrics")))
    assert (result.state, result.load) == (HEALTHY, None)


@pytest.mark.parametrize(
    ("answer", "state", "message"),
    [
        (answers(200, "{}"), HEALTHY, ""),
        (failing(ErrorKind.GENERATION_FAILED, 500), UNHEALTHY, "cannot generate: generation_failed"),
        (failing(ErrorKind.OUT_OF_MEMORY, 500), UNHEALTHY, "cannot generate: out_of_memory"),
        (failing(ErrorKind.MODEL_LOADING), LOADING, "loading its model"),
        (failing(ErrorKind.MODEL_OVERLOADED), HEALTHY, "answers model_overloaded"),
        (failing(ErrorKind.INVALID_INPUT, 400), HEALTHY, "answers invalid_input"),
    ],
)
async def test_a_generate_probe_finds_an_engine_that_fails_behind_a_healthy_server(
    backend: Backend, watch: Watch, answer: Answer, state: ProbeState, message: str
) -> None:
    backend.answers["/v1/completions"] = answer
    result = await probe(watch, replace(target(backend.url, probe="generate"), model="tiny"))
    assert (result.state, result.message) == (state, message)
    method, path, body, _ = backend.seen[-1]
    assert (method, path) == ("POST", "/v1/completions")
    assert json.loads(body) == {"model": "tiny", "prompt": "Hi", "max_tokens": 1, "temperature": 0}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("vllm", "/v1/completions"),
        ("openai", "/v1/chat/completions"),
        ("anthropic", "/v1/messages"),
        ("diffusers", None),
    ],
)
async def test_a_generate_probe_speaks_the_servers_api(
    backend: Backend, watch: Watch, name: str, path: str | None
) -> None:
    if path is not None:
        backend.answers[path] = answers(200, "{}")
    result = await probe(watch, target(backend.url, KindDialect(name), probe="generate"))
    assert result.state is HEALTHY
    assert [seen for _, seen, _, _ in backend.seen] == ["/health"] + ([path] if path else [])


@pytest.mark.parametrize(("per_scrape", "state"), [(1, HEALTHY), (0, UNHEALTHY)])
async def test_a_generate_probe_that_waits_tells_busy_from_hung_by_the_token_counter(
    backend: Backend, watch: Watch, per_scrape: int, state: ProbeState
) -> None:
    generated = 0

    def tokens() -> int:
        nonlocal generated
        generated += per_scrape
        return generated

    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    backend.answers |= {"/metrics": metrics(tokens), "/v1/completions": hang}
    result = await probe(
        watch, target(backend.url, KindDialect(metrics_path="/metrics"), probe="generate", timeout=0.2)
    )
    assert result.state is state
    assert result.message == ("busy" if per_scrape else "no answer within 0.2 s")


def test_an_endpoint_is_usable_until_the_first_result_says_otherwise() -> None:
    health = HealthState()
    assert (health.state, health.usable) == (ProbeState.UNKNOWN, True)
    assert health.record(UNHEALTHY, 2, 3)
    assert not health.usable


@given(st.lists(st.sampled_from([HEALTHY, UNHEALTHY, LOADING])), st.integers(1, 4), st.integers(1, 4))
def test_a_state_changes_only_for_enough_results_in_a_row(
    probes: list[ProbeState], healthy_after: int, unhealthy_after: int
) -> None:
    health = HealthState()
    for number, found in enumerate(probes, 1):
        before = health.state
        changed = health.record(found, healthy_after, unhealthy_after)
        assert changed is (health.state is not before)
        if not changed or number == 1:
            continue
        if health.state is HEALTHY:
            assert number >= healthy_after
            assert all(each is HEALTHY for each in probes[number - healthy_after : number])
        elif health.state is UNHEALTHY:
            assert all(each is not HEALTHY for each in probes[number - unhealthy_after : number])
        else:
            assert found is LOADING
        assert health.recovering is False
