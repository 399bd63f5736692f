"""The command line, environment and watch that `seawall worker vllm` makes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.workers.token_probe import TokenProbe
from backends.workers.vllm import VLLMMissingError, VLLMOptions, vllm_worker


@pytest.fixture
def options(tmp_path: Path) -> VLLMOptions:
    """An installed `vllm` that is no Python script, and a model's directory."""
    program, model = tmp_path / "vllm", tmp_path / "Llama-3"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    model.mkdir()
    (model / "config.json").write_text("{}")
    return VLLMOptions(model=str(model), program=str(program), env={})


def command(options: VLLMOptions, **changes: Any) -> Sequence[str]:
    return vllm_worker(replace(options, **changes)).argv


def test_the_command_serves_the_model_under_its_directorys_name(options: VLLMOptions) -> None:
    spec = vllm_worker(replace(options, extra=["--max-model-len", "512"]))
    start = [options.program, "serve", options.model, "--host", "127.0.0.1", "--port", "8000"]
    assert spec.argv == [*start, "--served-model-name", "Llama-3", "--max-model-len", "512"]
    assert (spec.name, spec.health_url) == ("Llama-3", "http://127.0.0.1:8000/health")
    assert (spec.stand_in, spec.shares_port) == (True, False)


@pytest.mark.parametrize(
    ("changes", "added", "missing"),
    [
        ({"name": "chat"}, ["--served-model-name", "chat"], []),
        ({"extra": ["--served-model-name=x"]}, ["--served-model-name=x"], ["--served-model-name"]),
        ({"gpu": "2,3"}, ["--tensor-parallel-size", "2"], []),
        ({"gpu": "2"}, [], ["--tensor-parallel-size"]),
        ({"gpu": "2,3", "extra": ["-tp", "1"]}, ["-tp", "1"], ["--tensor-parallel-size"]),
        ({"gpu": "2,3", "extra": ["--data-parallel-size=2"]}, [], ["--tensor-parallel-size"]),
        ({"sleep": True}, ["--enable-sleep-mode"], []),
    ],
)
def test_defaults_give_way_to_what_the_operator_says(
    options: VLLMOptions, changes: dict[str, Any], added: list[str], missing: list[str]
) -> None:
    argv = command(options, **changes)
    assert all(word in argv for word in added)
    assert not any(word in argv for word in missing)


@pytest.mark.parametrize(
    ("changes", "env"),
    [
        ({}, {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}),
        ({"gpu": "1"}, {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}),
        ({"gpu": ""}, {"CUDA_VISIBLE_DEVICES": ""}),
        ({"sleep": True}, {"VLLM_SERVER_DEV_MODE": "1"}),
    ],
)
def test_the_environment(options: VLLMOptions, changes: dict[str, Any], env: dict[str, str]) -> None:
    made = vllm_worker(replace(options, **changes)).env
    assert made | env == made


def test_the_operators_environment_goes_before_the_defaults(options: VLLMOptions) -> None:
    assert "HF_HUB_OFFLINE" not in vllm_worker(replace(options, env={"HF_HUB_OFFLINE": "0"})).env


def test_a_python_program_shares_its_port_and_is_asked_for_its_flags(options: VLLMOptions, tmp_path: Path) -> None:
    package = tmp_path / "lib" / "vllm" / "engine"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("raise SystemExit('never imported')")
    (package / "arg_utils.py").write_text('parser.add_argument("--shutdown-timeout")')
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / "lib"} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    Path(options.program or "").write_text(f"#!{python}\n")
    spec = vllm_worker(replace(options, drain=12.0))
    assert spec.shares_port
    assert spec.argv[0] == str(python)
    assert spec.argv[1].endswith("supervisor_share_port.py")
    assert spec.argv[2:4] == ["8000", options.program]
    flags = list(spec.argv)
    assert flags[flags.index("--shutdown-timeout") + 1] == "12"
    assert "--enable-request-id-headers" not in flags
    assert spec.grace > 12


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "/nowhere/llama"}, r"there is no /nowhere/llama\. Check the model's name or directory"),
        ({"program": "/nowhere/vllm"}, "vllm is not installed at /nowhere/vllm"),
        ({"program": None, "env": {"SEAWALL_VLLM": "no-such-vllm"}}, "vllm is not installed"),
    ],
)
def test_what_is_missing_is_said_with_what_to_do(options: VLLMOptions, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(VLLMMissingError, match=said):
        command(options, **changes)


def test_a_directory_without_a_model_is_refused(options: VLLMOptions, tmp_path: Path) -> None:
    with pytest.raises(VLLMMissingError, match=r"holds no model: it has no config\.json"):
        command(options, model=str(tmp_path))


def test_a_hubs_name_is_left_to_vllm(options: VLLMOptions) -> None:
    spec = vllm_worker(replace(options, model="org/model"))
    assert "org/model" in spec.argv
    assert "HF_HUB_OFFLINE" not in spec.env


@pytest.mark.parametrize("extra", [["--api-key", "sk-1"], ["--api-key=sk-1"]])
def test_the_probe_has_the_servers_key_and_can_be_switched_off(options: VLLMOptions, extra: list[str]) -> None:
    probe = vllm_worker(replace(options, extra=extra)).liveness
    assert isinstance(probe, TokenProbe)
    assert probe.api_key == "sk-1"
    assert vllm_worker(replace(options, liveness_timeout=0.0)).liveness is None


def test_an_ipv6_host_is_bracketed(options: VLLMOptions) -> None:
    assert vllm_worker(replace(options, host="::1")).health_url == "http://[::1]:8000/health"
