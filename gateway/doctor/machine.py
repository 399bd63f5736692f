"""The machine and the process: descriptors, versions, optional parts; and a running gateway, if one is named."""

from __future__ import annotations

import importlib.util
import platform
import resource
from collections.abc import Iterator
from typing import Any

import aiohttp
import orjson

from gateway import __version__
from gateway.config import Config
from gateway.descriptors import SPARE, for_backends
from gateway.doctor.backends import SKEW, ask
from gateway.doctor.findings import Finding, advice, failure, ok, warning
from gateway.program import command


def process(config: Config) -> list[Finding]:
    """What this machine gives a process that is started as this one was."""
    # The hard limit: a gateway raises its own to that.
    return [*_descriptors(config, resource.getrlimit(resource.RLIMIT_NOFILE)[1]), *_versions(), *_parts(config)]


def _descriptors(config: Config, limit: int) -> Iterator[Finding]:
    clients = config.server.max_connections
    backends = for_backends(config)
    needed = clients + SPARE
    if limit != resource.RLIM_INFINITY and limit < needed:
        yield failure(
            f"a process may open {limit} files; server.max_connections alone is {clients}",
            f"ulimit -n {clients + backends + SPARE} (systemd: LimitNOFILE), or lower server.max_connections",
        )
    elif limit != resource.RLIM_INFINITY and limit < needed + backends:
        yield advice(
            f"a process may open {limit} files; clients and backends may have {clients + backends} connections",
            f"ulimit -n {clients + backends + SPARE} (systemd: LimitNOFILE)",
        )
    else:
        yield ok("descriptors suffice for all connections (ulimit -n)")


def _versions() -> Iterator[Finding]:
    loop = "uvloop" if importlib.util.find_spec("uvloop") else "asyncio's own loop"
    yield ok(f"Seawall {__version__}, Python {platform.python_version()}, {loop}")
    if loop != "uvloop":
        yield advice("uvloop is not installed", "pip install uvloop: about half the CPU time a request")


def _parts(config: Config) -> Iterator[Finding]:
    wanted = (
        ("state.redis", "redis", "redis", config.state.redis is not None),
        ("observability.otlp", "opentelemetry.sdk", "otel", config.observability.otlp is not None),
        ("alerts.targets", "apprise", "alerts", bool(config.alerts.targets)),
        ("discover: dns", "dns", "discovery", any(one.discover == "dns" for one in config.backends.values())),
    )
    for setting, module, extra, on in wanted:
        if on and not _installed(module):
            yield failure(f"{setting} is set and what it needs is not installed", f"pip install 'seawall[{extra}]'")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


async def gateway(url: str, key: str | None, config: Config | None) -> list[Finding]:
    """A running gateway: does it answer, is it this version, what does it say of itself."""
    headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
    base = url.rstrip("/")
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            health = await ask(session, f"{base}/health", headers)
            status = await ask(session, f"{base}/status", headers)
    except ValueError:  # aiohttp's own among them
        return [failure(f"{url} is no address", "such as http://127.0.0.1:8080")]
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return [failure(f"{url}: no gateway answers ({type(error).__name__})", "start it: seawall serve")]
    found = [*_said(health.body, url)]
    if health.skew is not None and abs(health.skew) > SKEW:
        found.append(warning(f"its clock is {abs(health.skew):.0f} s off ours", "run NTP on both"))
    if status.status != 200:
        found.append(warning(f"its /status answers {status.status}", "give the operators' key: --key"))
        return found
    return [*found, *_same(status.body, config)]


def _said(body: bytes, url: str) -> Iterator[Finding]:
    try:
        report: dict[str, Any] = orjson.loads(body)
        overall = report["overall_status"]
        checks = report["checks"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        yield failure("what answers there is no Seawall", "look at the address")
        return
    told = [f"{name}: {check['message']}" for name, check in checks.items() if check["status"] != "healthy"]
    if overall == "critical":
        yield failure(f"it is critical ({'; '.join(told)})", f"{command()} top {url} shows what is wrong")
    elif overall == "degraded":
        yield warning(f"it is degraded ({'; '.join(told)})", f"{command()} top {url} shows what is wrong")
    else:
        yield ok("it is healthy")


def _same(body: bytes, config: Config | None) -> Iterator[Finding]:
    status: dict[str, Any] = orjson.loads(body)
    if status["version"] != __version__:
        yield warning(f"it runs version {status['version']}, this is {__version__}", "restart it after an update")
    else:
        yield ok(f"it runs this version, {__version__}")
    if config is None:
        return
    served = {name.partition("/")[0] for name in status["endpoints"]}
    found = {name for name, backend in config.backends.items() if backend.discover is not None}
    if differ := (set(config.backends) ^ served) - found:
        names = ", ".join(sorted(differ)[:5])
        yield warning(f"it does not serve this file: {names}", "reload it: SIGHUP, or the admin page")
