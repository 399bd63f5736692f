"""Active probes: asks every endpoint at intervals whether it can serve, on connections of its own.

Each probe opens a new connection, as the next request may have to. An endpoint that is down or in doubt is asked every
second, and while it answers well again ten times as often as ever (HAProxy's `fastinter`), so that it is back in use
within some two seconds however long the interval is and however many good answers `healthy_after` asks for.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

import aiohttp
import structlog

from backends.dialect import Dialect, ResponseHead
from backends.held_up import patient_timeout
from backends.signals import LoadSignals, parse_signals
from gateway import __version__
from gateway.health.worker_report import device_failed, worker_report
from policies.outcome import Blame, ErrorKind

_log = structlog.get_logger()

MAX_CONNECTIONS = 64
_MAX_BODY = 256 * 1024
_MAX_METRICS = 4 * 1024 * 1024
_FAST = 0.1  # share of the interval between probes while an endpoint recovers
#: Seconds between probes of an endpoint that is down.
RECHECK = 1.0
#: Seconds to the first probe of one that answered the last and that requests could not reach since; doubling, up to the
#: above, while it answers probes and not requests.
_FIRST_RECHECK = 0.1
_JITTER = 0.2  # probes come up to this share of the interval early, so that they don't all come at once

_CHAT: Mapping[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
_COMPLETION: Mapping[str, Any] = {"prompt": "Hi", "max_tokens": 1, "temperature": 0}
_GENERATE: Mapping[str, tuple[str, Mapping[str, Any]] | None] = {
    "openai": ("/v1/chat/completions", _CHAT),
    "ollama": ("/v1/chat/completions", _CHAT),
    "anthropic": ("/v1/messages", _CHAT),
    "diffusers": None,  # an image is too dear to ask for one every few seconds
    "triton": None,
}


class ProbeState(StrEnum):
    """What is known of an endpoint. It gets requests while `unknown`, before the first result, and while `healthy`."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    LOADING = "loading"
    ASLEEP = "asleep"
    FAILED = "failed"


#: What a server says of itself is believed at once.
_SAID = frozenset({ProbeState.LOADING, ProbeState.ASLEEP, ProbeState.FAILED})


class HealthSettings(Protocol):
    """`backends.*.health` of gateway.yaml; durations in seconds. `path` None is the dialect's."""

    @property
    def path(self) -> str | None: ...
    @property
    def interval(self) -> float: ...
    @property
    def timeout(self) -> float: ...
    @property
    def probe(self) -> str: ...
    @property
    def healthy_after(self) -> int: ...
    @property
    def unhealthy_after(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """One endpoint to be probed. `headers` carry its credentials; `tls` and `server_name` matter for https.

    `learn`: it is asked for its model's context length too.
    """

    name: str
    base_url: str
    health: HealthSettings
    dialect: Dialect
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    model: str | None = None
    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    learn: bool = False


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one probe found. `healthy`: the endpoint should get requests. `duration` is in seconds.

    `good` is this one probe's own verdict, `timed_out` that there was none. `context_length` (tokens) comes in a
    result of its own, after the first good one and each recovery.

    `message` is fit for anyone's eyes: no hosts, keys or backends' texts; `last_lines`, of a worker's log, are for
    operators. `load` is None where the server tells none.
    """

    endpoint: str
    healthy: bool
    state: ProbeState
    state_changed: bool
    message: str
    duration: float
    load: LoadSignals | None = None
    last_lines: tuple[str, ...] = ()
    good: bool = True
    timed_out: bool = False
    context_length: int | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    """One probe's own verdict, before it is weighed against those before it."""

    state: ProbeState
    message: str
    load: LoadSignals | None = None
    last_lines: tuple[str, ...] = ()
    timed_out: bool = False


class HealthState:
    """Weighs probes: the first decides; after it, changes need several results in a row.

    `loading` and the like are believed at once: the server said itself that it can't serve.
    """

    __slots__ = ("_bad", "_good", "state")

    def __init__(self) -> None:
        self.state = ProbeState.UNKNOWN
        self._good = 0
        self._bad = 0

    @property
    def usable(self) -> bool:
        return self.state in (ProbeState.UNKNOWN, ProbeState.HEALTHY)

    @property
    def recovering(self) -> bool:
        """Down, and the latest probe was good."""
        return not self.usable and self._good > 0

    @property
    def doubtful(self) -> bool:
        """Down, or the latest probe was bad."""
        return not self.usable or self._bad > 0

    def record(self, found: ProbeState, healthy_after: int, unhealthy_after: int) -> bool:
        """Takes a probe's verdict; returns whether the state changed."""
        before = self.state
        if found is ProbeState.HEALTHY:
            self._good, self._bad = self._good + 1, 0
            if before is ProbeState.UNKNOWN or self._good >= healthy_after:
                self.state = ProbeState.HEALTHY
        else:
            self._good, self._bad = 0, self._bad + 1
            if found in _SAID:
                self.state = found
            elif before is ProbeState.UNKNOWN or self._bad >= unhealthy_after:
                self.state = ProbeState.UNHEALTHY
        return self.state is not before


class Prober:
    """Probes a changing set of endpoints, each in a task of its own, and reports to `on_result`.

    `sleep` and `rand` (uniform in [0, 1)) are there for tests.
    """

    def __init__(
        self,
        on_result: Callable[[ProbeResult], None],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self._on_result = on_result
        self._sleep = sleep
        self._rand = rand
        self._session: aiohttp.ClientSession | None = None
        self._running: dict[str, tuple[ProbeTarget, asyncio.Task[None]]] = {}
        self._missed: dict[str, asyncio.Event] = {}
        self._ended: set[asyncio.Task[None]] = set()

    async def start(self, targets: Iterable[ProbeTarget] = ()) -> None:
        """Starts probing, the first time at once."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"User-Agent": f"seawall-probe/{__version__}", "Accept-Encoding": "identity"},
        )
        self.update(targets)

    def update(self, targets: Iterable[ProbeTarget]) -> None:
        """Probes these from now on, once started. What is known of a target that stays equal is kept; a changed one
        starts anew."""
        wanted = {target.name: target for target in targets}
        for name, (target, task) in list(self._running.items()):
            if wanted.get(name) != target:
                task.cancel()
                self._ended.add(task)
                task.add_done_callback(self._ended.discard)
                del self._running[name], self._missed[name]
        for name, target in wanted.items():
            if name not in self._running:
                self._missed[name] = asyncio.Event()
                task = asyncio.create_task(self._watch(target, self._missed[name]), name=f"probe-{name}")
                self._running[name] = target, task

    def missed(self, name: str) -> None:
        """Requests could not reach an endpoint: it is probed soon, within a second at the latest."""
        if (event := self._missed.get(name)) is not None:
            event.set()

    async def stop(self) -> None:
        """Ends all probing and closes the connections."""
        self.update(())
        await asyncio.gather(*self._ended, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _watch(self, target: ProbeTarget, missed: asyncio.Event) -> None:
        assert self._session is not None
        settings = target.health
        health = HealthState()
        recheck = _FIRST_RECHECK
        clock = asyncio.get_running_loop().time
        while True:
            started = clock()
            missed.clear()
            answer = await _probe(self._session, target)
            changed = health.record(answer.state, settings.healthy_after, settings.unhealthy_after)
            result = ProbeResult(
                endpoint=target.name,
                healthy=health.usable,
                state=health.state,
                state_changed=changed,
                message=answer.message,
                duration=clock() - started,
                load=answer.load,
                last_lines=answer.last_lines,
                good=answer.state is ProbeState.HEALTHY,
                timed_out=answer.timed_out,
            )
            self._report(result)
            if target.learn and changed and health.usable:
                length = await _Probe(self._session, target).context_length()
                self._report(replace(result, state_changed=False, context_length=length))
            pause = settings.interval * (_FAST if health.recovering else 1.0)
            least = recheck
            if health.doubtful:
                pause = least = min(pause, RECHECK)
            calm = await self._rest(pause * (1 - _JITTER * self._rand()), missed, least)
            recheck = _FIRST_RECHECK if calm else min(2 * recheck, RECHECK)

    async def _rest(self, seconds: float, missed: asyncio.Event, least: float) -> bool:
        """Sleeps so long, or until requests miss the endpoint, then `least` in all; whether none missed it."""
        waits = [asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(missed.wait())]
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            slept = waits[0].done()
        finally:
            for wait in waits:
                wait.cancel()
        if not slept and (rest := min(least, seconds) - (clock() - began)) > 0:
            await self._sleep(rest)
        return slept

    def _report(self, result: ProbeResult) -> None:
        try:
            self._on_result(result)
        except Exception:
            _log.exception("probe_result_not_taken", backend=result.endpoint)


async def _probe(session: aiohttp.ClientSession, target: ProbeTarget) -> _Answer:
    """Asks one endpoint; whatever it does is an answer."""
    probe = _Probe(session, target)
    try:
        answer = await probe.health()
        if answer.state is not ProbeState.HEALTHY:
            return answer
        load = await probe.load()
        if load is not None and load.asleep:
            return _Answer(ProbeState.ASLEEP, "asleep", load)
        if target.health.probe == "generate":
            answer = await probe.generate(load)
        return _Answer(answer.state, answer.message, load)
    except Exception as error:
        return _Answer(ProbeState.UNHEALTHY, _described(error, target), timed_out=isinstance(error, TimeoutError))


class _Probe:
    """The steps of one probe."""

    def __init__(self, session: aiohttp.ClientSession, target: ProbeTarget) -> None:
        self._session = session
        self._target = target

    async def health(self) -> _Answer:
        """The health path: 2xx is healthy, and so is a server that only finds itself asked too often (429)."""
        path = self._target.health.path or self._target.dialect.health_path
        head, body = await self._ask("GET", path)
        if 200 <= head.status < 300 or head.status == 429:
            return _Answer(ProbeState.HEALTHY, "")
        if 300 <= head.status < 400:
            return _Answer(ProbeState.UNHEALTHY, f"redirects ({head.status}); redirects are not followed")
        failure = self._target.dialect.classify(path, head, body)
        if failure is not None and failure.kind is ErrorKind.MODEL_LOADING:
            report = worker_report(body)
            return _Answer(ProbeState.LOADING, report.loading, last_lines=report.last_lines)
        if failure is not None and failure.kind is ErrorKind.MODEL_LOADING_FAILED:
            report = worker_report(body)
            return _Answer(ProbeState.FAILED, report.failed, last_lines=report.last_lines)
        if device_failed(body):
            return _Answer(ProbeState.UNHEALTHY, "a GPU of its failed; its own /health says how")
        return _Answer(ProbeState.UNHEALTHY, f"answers with status {head.status}")

    async def load(self) -> LoadSignals | None:
        """The gauges of its metrics; None if it has none or doesn't answer, which says nothing of its health."""
        path = self._target.dialect.metrics_path
        if path is None:
            return None
        try:
            head, body = await self._ask("GET", path, limit=_MAX_METRICS)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None
        return parse_signals(body) if head.status == 200 else None

    async def context_length(self) -> int | None:
        """Tokens that the model takes, as vLLM and SGLang say it (`max_model_len`); None where the server doesn't."""
        try:
            head, body = await self._ask("GET", "/v1/models")
            models = json.loads(body)["data"] if head.status == 200 else []
            lengths = {model["id"]: model.get("max_model_len") for model in models}
            own = lengths.get(self._target.model)
            known = [own] if own is not None else [length for length in lengths.values() if length is not None]
            return min(known) if known and all(type(length) is int and length > 0 for length in known) else None
        except Exception:  # whatever a server says there, probing must go on
            return None

    async def generate(self, before: LoadSignals | None) -> _Answer:
        """Has the model make one token.

        An answer that doesn't blame the endpoint (busy, or the model refuses such a request) shows that it lives, and
        so does a token counter that moves while the probe waits in a long queue.
        """
        step = _GENERATE.get(self._target.dialect.name, ("/v1/completions", _COMPLETION))
        if step is None:
            return _Answer(ProbeState.HEALTHY, "")
        path, fields = step
        body = dict(fields) if self._target.model is None else {"model": self._target.model, **fields}
        try:
            head, answer = await self._ask("POST", path, body)
        except TimeoutError:
            if _moved(before, await self.load()):
                return _Answer(ProbeState.HEALTHY, "busy")
            raise
        failure = self._target.dialect.classify(path, head, answer)
        if failure is None:
            return _Answer(ProbeState.HEALTHY, "")
        if failure.kind is ErrorKind.MODEL_LOADING:
            return _Answer(ProbeState.LOADING, "loading its model")
        if failure.blame is Blame.ENDPOINT:
            return _Answer(ProbeState.UNHEALTHY, f"cannot generate: {failure.kind.value}")
        return _Answer(ProbeState.HEALTHY, f"answers {failure.kind.value}")

    async def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, limit: int = _MAX_BODY
    ) -> tuple[ResponseHead, bytes]:
        """One exchange. Raises TimeoutError, ValueError for too long an answer, OSError, aiohttp.ClientError."""
        target = self._target
        async with (
            patient_timeout(target.health.timeout),
            self._session.request(
                method,
                target.base_url + path,
                json=body,
                headers=target.headers,
                allow_redirects=False,
                ssl=target.tls or True,
                server_hostname=target.server_name,
            ) as response,
        ):
            content = bytearray()
            async for chunk in response.content.iter_any():
                content += chunk
                if len(content) > limit:
                    raise ValueError("its answer is too long")
            headers = {name.lower(): value for name, value in response.headers.items()}
            return ResponseHead(response.status, headers), bytes(content)


def _moved(before: LoadSignals | None, after: LoadSignals | None) -> bool:
    """Whether tokens were generated between two looks."""
    if before is None or after is None or before.generation_tokens is None or after.generation_tokens is None:
        return False
    return after.generation_tokens > before.generation_tokens


def _described(error: Exception, target: ProbeTarget) -> str:
    """An error in words without addresses."""
    match error:
        case TimeoutError():
            return f"no answer within {target.health.timeout:g} s"
        case aiohttp.ClientConnectorDNSError():
            return "its host name cannot be resolved"
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(error.certificate_error, "verify_message", "") or "it cannot be verified"
            return f"its certificate is refused: {reason.partition(' for ')[0].rstrip('.')}"  # then comes an address
        case aiohttp.ClientSSLError():
            return f"no TLS connection: {getattr(error.os_error, 'reason', None) or 'handshake failed'}".lower()[:200]
        case aiohttp.ClientConnectorError():
            number = error.os_error.errno  # its own text holds the address
            return f"cannot connect: {os.strerror(number).lower()}" if number else "cannot connect"
        case aiohttp.ClientError() | OSError():
            return "the connection broke or carried no HTTP"
        case ValueError():
            return "its answer is too long"
    _log.error("probe_failed", backend=target.name, exc_info=error)
    return f"the probe itself failed ({type(error).__name__})"
