"""`seawall doctor` over real processes and servers: what it finds, what it says to do, its exit code."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.config import load_text
from gateway.doctor import machine
from gateway.doctor.backends import examine
from gateway.doctor.findings import Level
from gateway.doctor.practice import practices
from tests.support.fault_backend import FaultBackend
from tests.support.faults import FaultKind, fault
from tests.support.gateway import running_gateway
from tests.support.processes import Process, free_port

ROUTE = "routes: [{model: tiny, backends: [a]}]\n"
SMALL = "server: {listen: '127.0.0.1:0', max_connections: 500}\n"


def run(*arguments: str, ulimit: int = 2048) -> tuple[int, str]:
    command = f'ulimit -n {ulimit} && exec "$@"'
    with Process(["bash", "-c", command, "-", *_python(), "-m", "gateway", "doctor", *arguments]) as process:
        return process.wait(60), process.output


def _python() -> list[str]:
    import sys

    return [sys.executable]


async def doctor(tmp_path: Path, text: str, *arguments: str, ulimit: int = 2048) -> tuple[int, str]:
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    return await asyncio.to_thread(run, "--config", str(file), *arguments, ulimit=ulimit)


async def test_a_sound_setting_passes_and_the_running_gateway_is_looked_at(tmp_path: Path) -> None:
    async with FaultBackend() as one:
        text = f"{SMALL}backends: {{a: {{url: '{one.url}', kind: vllm}}}}\n{ROUTE}"
        async with running_gateway(text) as gateway:
            status, output = await doctor(tmp_path, text, gateway.url)
    assert status == 0, output
    for said in ("a: serves 'tiny' for route 'tiny'", "it is healthy", "it runs this version", "0 failures"):
        assert said in output
    assert "route 'tiny' has one backend" in output


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("kind: vllm, model: other", "does not serve 'other', which route 'tiny' sends it (it serves tiny)"),
        ("kind: vllm, context_length: 99999", "context_length is 99999"),
        ("kind: vllm, health: {path: /nowhere}", "/nowhere answers 404"),
    ],
)
async def test_what_does_not_fit_a_backend_fails(backend: str, said: str) -> None:
    async with FaultBackend() as one:
        levels = await found(f"backends: {{a: {{url: '{one.url}', {backend}}}}}\n{ROUTE}")
    assert [level for what, level in levels.items() if said in what] == [Level.FAILURE]


async def test_a_backend_that_is_not_there_fails(tmp_path: Path) -> None:
    text = f"backends: {{a: {{url: 'http://127.0.0.1:{free_port()}', kind: vllm}}}}\n{ROUTE}"
    status, output = await doctor(tmp_path, text, f"http://127.0.0.1:{free_port()}")
    assert status == 1
    assert "a: not reachable (connection refused)" in output
    assert "no gateway answers" in output
    assert "Traceback" not in output


async def test_a_certificate_that_is_not_there_and_an_address_that_is_none_fail(tmp_path: Path) -> None:
    text = f"backends: {{a: {{url: 'https://127.0.0.1:1', kind: vllm, tls: {{ca: nowhere.pem}}}}}}\n{ROUTE}"
    status, output = await doctor(tmp_path, text, "http://[::1")
    assert status == 1
    assert "a: not reachable (nowhere.pem: No such file or directory)" in output
    assert "http://[::1 is no address" in output


def test_what_is_set_and_not_installed_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"backends: {{a: {{url: 'http://a', discover: dns}}}}\n{ROUTE}alerts: {{targets: ['json://localhost']}}\n"
    monkeypatch.setattr(machine, "_installed", lambda module: False)
    failed = [finding for finding in machine.process(load_text(text)) if finding.level is Level.FAILURE]
    assert [finding.advice for finding in failed] == [
        "pip install 'seawall[alerts]'",
        "pip install 'seawall[discovery]'",
    ]


async def test_a_faulty_file_fails_with_every_problem(tmp_path: Path) -> None:
    status, output = await doctor(tmp_path, "backends: {a: {url: 'http://x', knd: vllm}}\nroutes: []\n")
    assert status == 1
    assert "knd: unknown key" in output


async def test_too_few_descriptors_fail(tmp_path: Path) -> None:
    async with FaultBackend() as one:
        text = f"backends: {{a: {{url: '{one.url}', kind: vllm}}}}\n{ROUTE}"
        status, output = await doctor(tmp_path, text, ulimit=1024)
    assert status == 1
    assert "a process may open 1024 files; server.max_connections alone is 10000" in output


async def found(text: str) -> dict[str, Level]:
    return {finding.what: finding.level for finding in await examine(load_text(text))}


@pytest.mark.parametrize(
    ("key", "said"), [("", "a: wants a key (401)"), (", api_key: wrong", "a: refuses our key (401)")]
)
async def test_a_key_that_is_not_taken_fails(key: str, said: str) -> None:
    async with FaultBackend() as one:
        one.inject(fault(FaultKind.RESPOND, status=401, path="/v1/models", body=b"{}"))
        assert (await found(f"backends: {{a: {{url: '{one.url}', kind: vllm{key}}}}}\n{ROUTE}"))[said] is Level.FAILURE


async def test_a_clock_that_is_off_is_a_warning() -> None:
    async with FaultBackend() as one:
        date = {"date": "Wed, 01 Jan 2020 00:00:00 GMT"}
        one.inject(fault(FaultKind.RESPOND, status=200, path="/health", headers=date))
        levels = await found(f"backends: {{a: {{url: '{one.url}', kind: vllm}}}}\n{ROUTE}")
    assert any("its clock is" in what and level is Level.WARNING for what, level in levels.items())


async def test_a_list_of_models_that_is_none_is_a_warning() -> None:
    async with FaultBackend() as one:
        one.inject(fault(FaultKind.RESPOND, status=200, path="/v1/models", body=b'{"data": [1, {"id": 2}]}'))
        levels = await found(f"backends: {{a: {{url: '{one.url}', kind: vllm}}}}\n{ROUTE}")
    assert levels["a: does not say which models it serves"] is Level.WARNING


BASE = "backends: {a: {url: 'http://a:1', kind: vllm}, b: {url: 'http://b:1', kind: vllm}}\n"
TIERS = "routes: [{model: m, backends: [a], fallback: [b], policy: chat}]\n"


@pytest.mark.parametrize(
    ("text", "level", "said"),
    [
        (BASE + "routes: [{model: m, backends: [a, b]}]", Level.ADVICE, "route 'm' has no fallback tier"),
        (BASE + TIERS + "policies: {chat: {}}", Level.OK, "route 'm' falls back over 2 tiers"),
        (BASE + TIERS + "policies: {chat: {retry: {attempts: 1}}}", Level.ADVICE, "nothing is tried again"),
        (BASE + TIERS + "policies: {chat: {retry: {budget: {ratio: 0.9}}}}", Level.WARNING, "budget.ratio is 0.9"),
        (
            BASE + TIERS + "policies: {chat: {timeout: {first_token: 50s, total: 1m}}}",
            Level.WARNING,
            "leaves no time for a second try",
        ),
        (BASE + TIERS + "policies: {chat: {stream: {resume: false}}}", Level.ADVICE, "stream.resume is off"),
        (BASE + TIERS + "policies: {chat: {fault: {abort: 0.1}}}", Level.WARNING, "injects faults"),
        (BASE + TIERS + "policies: {chat: {degrade: {}}}", Level.OK, "made smaller before they are refused"),
        (BASE + TIERS + "policies: {chat: {}}\nserver: {drain: 1s}", Level.WARNING, "a restart cuts what runs"),
        (BASE + TIERS + "policies: {chat: {}}\nserver: {listen: '0.0.0.0:80'}", Level.WARNING, "anyone who reaches"),
        (BASE + TIERS + "policies: {chat: {}}\nserver: {admin: {key: k}}", Level.OK, "operators' acts need a key"),
        (BASE + TIERS + "policies: {chat: {}}\nserver: {workers: 4}", Level.ADVICE, "4 workers each have"),
        (BASE + TIERS + "policies: {chat: {}}\nalerts: {targets: ['slack://x']}", Level.OK, "someone is told"),
        (
            BASE.replace("}, b", ", health: {probe: generate}}, b") + TIERS + "policies: {chat: {}}",
            Level.ADVICE,
            "b: probes ask the server only whether it is up",
        ),
    ],
)
def test_the_practices_that_a_configuration_has(text: str, level: Level, said: str) -> None:
    assert [finding.level for finding in practices(load_text(text)) if said in finding.what] == [level]
