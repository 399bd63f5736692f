"""`seawall init` against servers that run, `seawall import` on files."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import load_text
from gateway.setup.discover import Found, discover
from gateway.setup.init import draft
from tests.support.fault_backend import FaultBackend
from tests.support.gateway import running_gateway
from tests.support.processes import Process, free_port


async def test_servers_are_found_and_a_gateway_is_not_taken_for_one() -> None:
    async with FaultBackend() as server:
        text = f"backends: {{a: {{url: '{server.url}', kind: vllm}}}}\nroutes: [{{model: tiny, backends: [a]}}]"
        async with running_gateway(text) as gateway:
            nobody = f"http://127.0.0.1:{free_port()}"
            found = await discover([server.url + "/v1", gateway.url, nobody])
    assert [(each.url, each.kind, each.models) for each in found] == [(server.url, "vllm", ("tiny",))]


def test_servers_with_the_same_model_share_a_route() -> None:
    found = [
        Found("http://h:8000", "vllm", ("meta/llama",), 8192),
        Found("http://h:8001", "vllm", ("meta/llama", "lora")),
        Found("http://h:9004", "diffusers", ("sdxl",)),
    ]
    config = load_text(draft(found, "127.0.0.1:8080").text())
    assert [(route.model, len(route.tiers[0])) for route in config.routes] == [
        (("meta/llama",), 2),
        (("lora",), 1),
        (("sdxl",), 1),
    ]
    assert list(config.backends) == ["llama-8000", "llama-8001", "sdxl-9004"]
    assert config.policy_for(config.routes[2]).timeout.first_token == 90


def command(folder: Path, *arguments: str) -> tuple[int, str]:
    with Process.python("-m", "gateway", *arguments, cwd=folder) as process:
        return process.wait(60), process.output


async def test_init_writes_a_file_that_is_checked_and_never_writes_over_one(tmp_path: Path) -> None:
    import asyncio

    async with FaultBackend() as server:
        status, output = await asyncio.to_thread(command, tmp_path, "init", server.url)
        assert status == 0, output
        assert "no errors" in output
        written = (tmp_path / "gateway.yaml").read_text()
        assert load_text(written).backends["tiny-" + server.url.rpartition(":")[2]].kind == "vllm"
        status, output = await asyncio.to_thread(command, tmp_path, "init", server.url)
        assert (status, "is there already" in output) == (2, True)
        assert (tmp_path / "gateway.yaml").read_text() == written


def test_init_that_finds_nothing_says_what_to_do(tmp_path: Path) -> None:
    status, output = command(tmp_path, "init", f"127.0.0.1:{free_port()}")
    assert status == 1
    assert "gateway init http://HOST:PORT" in output
    assert not (tmp_path / "gateway.yaml").exists()


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("model_list: [{model_name: m, litellm_params: {model: gpt-4o}}]", 0, "url: "),
        ("model_list: []", 2, "no model_list"),
        ("a: [", 2, "litellm.yaml"),
        ("[]", 2, "no model_list"),
    ],
)
def test_import_prints_the_file_or_what_is_wrong(tmp_path: Path, text: str, status: int, said: str) -> None:
    (tmp_path / "litellm.yaml").write_text(text)
    got, output = command(tmp_path, "import", "litellm", "litellm.yaml")
    assert said in output
    assert got == status
    assert "Traceback" not in output


async def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    import asyncio

    (tmp_path / "litellm.yaml").write_text("model_list: [{model_name: m, litellm_params: {model: gpt-4o}}]")
    async with FaultBackend() as server:
        for arguments in (("init", server.url), ("import", "litellm", "litellm.yaml")):
            status, output = await asyncio.to_thread(command, tmp_path, *arguments, "--output", "nowhere/x.yaml")
            assert (status, "can't be written" in output, "Traceback" in output) == (1, True, False)
