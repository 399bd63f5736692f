"""Prometheus' own tool accepts the rules and configurations, and its unit tests of the alerts pass."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def promtool() -> str:
    """The path of promtool, installed as Debian's package `prometheus` where it is missing and that is possible."""
    if shutil.which("promtool") is None:
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            pytest.skip("promtool is missing: install Debian's package prometheus")
        subprocess.run(["apt-get", "update", "-qq"], check=True, capture_output=True)
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "prometheus"]
        subprocess.run(install, check=True, capture_output=True, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
    found = shutil.which("promtool")
    assert found is not None
    return found


def run(*command: object, cwd: Path = PROMETHEUS) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)


def test_the_rules_are_valid(promtool: str) -> None:
    done = run(promtool, "check", "rules", "rules.yml")
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.mark.parametrize("configuration", ["prometheus/prometheus.yml", "compose/prometheus.yml"])
def test_the_configurations_are_valid(promtool: str, configuration: str, tmp_path: Path) -> None:
    text = (ROOT / "deploy" / configuration).read_text("utf-8")
    key = tmp_path / "key"
    key.write_text("secret")
    (tmp_path / "prometheus.yml").write_text(text.replace("/run/secrets/seawall_admin_key", str(key)))
    shutil.copy(PROMETHEUS / "rules.yml", tmp_path)
    done = run(promtool, "check", "config", "prometheus.yml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout


def test_every_alert_fires_when_it_should_and_only_then(promtool: str) -> None:
    done = run(promtool, "test", "rules", "rules.test.yml")
    assert done.returncode == 0, done.stderr + done.stdout


def test_the_tests_of_the_alerts_can_fail(promtool: str, tmp_path: Path) -> None:
    """With alerts that never fire, each alert's test fails."""
    rules = (PROMETHEUS / "rules.yml").read_text("utf-8")
    silent, count = re.subn(r"(- alert: .*\n\s+expr: >-\n)(?:\s{10,}.*\n)+", r"\1          vector(0) > 1\n", rules)
    assert count == rules.count("- alert:")
    (tmp_path / "rules.yml").write_text(silent)
    shutil.copy(PROMETHEUS / "rules.test.yml", tmp_path)
    done = run(promtool, "test", "rules", "rules.test.yml", cwd=tmp_path)
    assert done.returncode != 0
    failed = set(re.findall(r'expr: "ALERTS\{alertname=\\"(\w+)\\"', done.stderr + done.stdout))
    assert failed == set(re.findall(r"- alert: (\w+)", rules))
