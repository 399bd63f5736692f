"""Container files, compose files and systemd units are sound and fit together."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gateway.config import load_text

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = DEPLOY / "compose"


@pytest.mark.parametrize("file", sorted((DEPLOY / "docker").iterdir()), ids=lambda file: file.name)
def test_a_dockerfile_keeps_to_good_practice(file: Path) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", sorted((DEPLOY / "docker").iterdir()), ids=lambda file: file.name)
def test_a_container_runs_without_root_and_tells_its_health(file: Path) -> None:
    last_stage = file.read_text().rpartition("\nFROM ")[2].splitlines()
    assert "USER 10001" in last_stage
    assert any(line.startswith("HEALTHCHECK") for line in last_stage)
    assert "STOPSIGNAL SIGTERM" in last_stage


def test_what_compose_builds_and_mounts_is_there() -> None:
    services = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
    assert {"vllm-a", "vllm-b", "diffusers", "seawall", "prometheus", "grafana"} == set(services)
    for service in services.values():
        if "build" in service:
            assert (COMPOSE / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (COMPOSE / source).exists(), source


def test_the_configuration_of_compose_names_its_services() -> None:
    services = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
    environ = {"SEAWALL_ADMIN_KEY": "k" * 32, "APPS_KEY": "a" * 32}
    config = load_text((COMPOSE / "gateway" / "gateway.yaml").read_text(), environ=environ)
    assert set(config.backends) <= set(services)
    assert all(name == backend.url.split("/")[2].split(":")[0] for name, backend in config.backends.items())


@pytest.mark.parametrize("file", sorted((DEPLOY / "systemd").iterdir()), ids=lambda file: file.name)
def test_systemd_takes_the_unit(file: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed here")
    done = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if "is not executable" not in line]
    assert not complaints
