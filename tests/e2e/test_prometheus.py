"""Prometheus takes the rules, the configurations and a gateway's answers, and its unit tests of the alerts pass."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.support.fault_backend import FaultBackend
from tests.support.gateway import running_gateway
from tests.support.processes import free_port

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"

pytestmark = pytest.mark.slow


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


async def test_prometheus_scrapes_a_gateway_with_exemplars_and_runs_the_rules(promtool: str, tmp_path: Path) -> None:
    port = free_port()
    async with FaultBackend() as backend, running_gateway(one_backend(backend.url)) as gateway:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(PROMETHEUS / "rules.yml")],
            "scrape_configs": [
                {"job_name": "seawall", "static_configs": [{"targets": [gateway.url.removeprefix("http://")]}]}
            ],
        }
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        assert (await gateway.chat(headers={"X-Correlation-ID": "exemplar-1"})).status == 200
        prometheus = await asyncio.create_subprocess_exec(
            str(Path(promtool).with_name("prometheus")),
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            api = f"http://127.0.0.1:{port}/api/v1"
            async with asyncio.timeout(60):
                up = await found(gateway.session, f"{api}/query?query=up")
                assert up[0]["value"][1] == "1"
                assert await found(gateway.session, f"{api}/query?query=seawall:objective:error_ratio")
                span = f"start={time.time() - 300}&end={time.time() + 300}"
                query = f"{api}/query_exemplars?query=seawall_request_duration_seconds_bucket&{span}"
                series = await found(gateway.session, query)
            assert series[0]["exemplars"][0]["labels"] == {"correlation_id": "exemplar-1"}
        finally:
            prometheus.kill()
            await prometheus.wait()


def one_backend(url: str) -> str:
    return (
        f"server: {{listen: '127.0.0.1:0'}}\nbackends: {{a: {{url: '{url}', kind: vllm}}}}\n"
        "routes: [{model: tiny, backends: [a]}]\n"
    )


async def found(session: aiohttp.ClientSession, url: str) -> list[dict[str, Any]]:
    """What Prometheus answers, once it answers anything (bounded by the caller's time limit)."""
    while True:
        try:
            async with session.get(url) as response:
                data = (await response.json())["data"]
        except (aiohttp.ClientConnectionError, aiohttp.ContentTypeError):  # not up yet, or still reading its log
            data = []
        result: list[dict[str, Any]] = data["result"] if isinstance(data, dict) else data
        if result:
            return result
        await asyncio.sleep(0.1)
