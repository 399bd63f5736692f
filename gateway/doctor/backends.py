"""Asks every backend: is it there, does it take our key, does it serve what the routes name, is its clock right."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import orjson

from backends.registry import dialect_for
from gateway.config import Config
from gateway.config.schema import BackendConfig
from gateway.doctor.findings import Finding, advice, failure, ok, warning
from gateway.endpoint import credentials
from gateway.operator_client import printable
from gateway.tls import backend_files

_TIMEOUT = 5.0
_MAX_BODY = 4 << 20
#: Seconds that clocks may differ: more confuses logs, traces and tokens with an expiry.
SKEW = 5.0
_WILDCARD = frozenset("*?[")
#: Kinds without OpenAI's list of models.
_NO_MODELS = frozenset({"tgi", "diffusers"})


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. `skew` is its clock minus ours in seconds, None where it says no time."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    skew: float | None


@dataclass(slots=True)
class Model:
    """A model that a backend serves, and how long its context is (tokens), where it says."""

    name: str
    context: int | None = None


@dataclass(slots=True)
class _Asked:
    """What was learnt of one backend."""

    name: str
    findings: list[Finding] = field(default_factory=list)


async def examine(config: Config) -> list[Finding]:
    """All backends at once; findings in their order in the file."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT)) as session:
        found = await asyncio.gather(*[_one(session, config, name) for name in config.backends])
    return [finding for each in found for finding in each.findings]


async def ask(
    session: aiohttp.ClientSession,
    url: str,
    headers: Mapping[str, str],
    *,
    tls: Any = None,
    server_name: str | None = None,
) -> Answer:
    """A GET. Raises aiohttp.ClientError, OSError, TimeoutError."""
    sent = time.time()
    async with session.get(
        url, headers=headers, allow_redirects=False, ssl=tls or True, server_hostname=server_name
    ) as response:
        body = await response.content.read(_MAX_BODY)
        midway = (sent + time.time()) / 2
        return Answer(response.status, response.headers, body, _skew(response.headers.get("Date"), midway))


def _skew(date: str | None, now: float) -> float | None:
    if date is None:
        return None
    try:
        return parsedate_to_datetime(date).timestamp() + 0.5 - now  # the header has whole seconds
    except (ValueError, TypeError):
        return None


async def _one(session: aiohttp.ClientSession, config: Config, name: str) -> _Asked:
    asked = _Asked(name)
    backend = config.backends[name]
    try:
        tls = backend_files(backend.tls).context if backend.url.startswith("https") else None
        headers, server = credentials(backend), backend.tls.server_name
        path = backend.health.path or dialect_for(backend.kind).health_path
        health = await ask(session, backend.url + path, headers, tls=tls, server_name=server)
        asked.findings += _health(name, backend, health)
        if health.status < 300 and backend.kind not in _NO_MODELS:
            listed = await ask(session, f"{backend.url}/v1/models", headers, tls=tls, server_name=server)
            asked.findings += _models(config, name, listed)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        do = "is it running, and is its url right? routes that need it have the others or nothing"
        asked.findings.append(failure(f"{name}: not reachable ({_reason(error)})", do))
    return asked


def _health(name: str, backend: BackendConfig, answer: Answer) -> Iterator[Finding]:
    if answer.status in (401, 403):
        what = (
            f"{name}: refuses our key ({answer.status})"
            if backend.api_key
            else f"{name}: wants a key ({answer.status})"
        )
        yield failure(what, f"set backends.{name}.api_key to one that it takes")
        return
    if answer.status >= 300:
        path = backend.health.path or dialect_for(backend.kind).health_path
        yield failure(f"{name}: {path} answers {answer.status}", "look at its log; it gets no requests like this")
        return
    server = printable(answer.headers.get("Server", ""))[:60]
    yield ok(f"{name}: up{f' ({server})' if server else ''}")
    if answer.skew is not None and abs(answer.skew) > SKEW:
        yield warning(
            f"{name}: its clock is {abs(answer.skew):.0f} s {'ahead' if answer.skew > 0 else 'behind'}", "run NTP"
        )


def _models(config: Config, name: str, answer: Answer) -> Iterator[Finding]:
    backend = config.backends[name]
    if answer.status in (401, 403):
        what = (
            f"{name}: refuses our key ({answer.status})"
            if backend.api_key
            else f"{name}: wants a key ({answer.status})"
        )
        yield failure(what, f"set backends.{name}.api_key to one that it takes")
        return
    models = _listed(answer)
    if not models:
        yield warning(f"{name}: does not say which models it serves", "routes to it could not be checked")
        return
    known = {model.name: model for model in models}
    for route in _patterns(config, name):
        what = (
            f"{name}: route {route!r} passes on whatever name matches its pattern; that it is served can't be checked"
        )
        yield advice(what, f"set backends.{name}.model if it is to be always the same")
    for wanted, route in _wanted(config, name):
        if wanted not in known:
            serves = ", ".join(sorted(known)[:5])
            yield failure(
                f"{name}: does not serve {wanted!r}, which route {route!r} sends it (it serves {serves})",
                f"set backends.{name}.model, or the model of the route's target",
            )
        else:
            yield ok(f"{name}: serves {wanted!r} for route {route!r}")
            yield from _context(name, backend, known[wanted])


def _context(name: str, backend: BackendConfig, model: Model) -> Iterator[Finding]:
    if model.context and backend.context_length and backend.context_length > model.context:
        what = f"{name}: context_length is {backend.context_length}, the server takes {model.context}"
        yield failure(what, "requests between the two would be refused there; lower it")


def _listed(answer: Answer) -> list[Model]:
    try:
        entries = orjson.loads(answer.body)["data"]
        return [
            Model(printable(entry["id"]), entry.get("max_model_len"))
            for entry in entries
            if isinstance(entry.get("id"), str)
        ]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return []


def _wanted(config: Config, name: str) -> list[tuple[str, str]]:
    """(model, route) of all that is sent there under a name that the configuration knows, each once."""
    backend = config.backends[name]
    found = []
    for route in config.routes:
        for target in (target for tier in route.tiers for target in tier if target.backend == name):
            named = target.model or backend.model
            names = [named] if named else [model for model in route.model if not _WILDCARD & set(model)]
            found += [(each, route.name) for each in names]
    return list(dict.fromkeys(found))


def _patterns(config: Config, name: str) -> list[str]:
    """Routes that send it names which no one knows before a client asks."""
    if config.backends[name].model:
        return []
    return [
        route.name
        for route in config.routes
        if any(target.backend == name and not target.model for tier in route.tiers for target in tier)
        and any(_WILDCARD & set(model) for model in route.model)
    ]


def _reason(error: Exception) -> str:
    match error:
        case TimeoutError():
            return f"no answer within {_TIMEOUT:g} s"
        case aiohttp.ClientConnectorDNSError():
            return "its host name cannot be resolved"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return "no TLS connection: certificate or protocol"
        case aiohttp.ClientConnectorError():
            number = error.os_error.errno  # its own text is asyncio's
            return os.strerror(number).lower() if number else "cannot connect"
        case OSError() if error.filename:  # a certificate that the configuration names
            return f"{error.filename}: {error.strerror}"
        case _:
            return type(error).__name__
