"""The dashboard is what Grafana's own builders make of build.py, and Prometheus can parse each of its queries."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support import parts

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
DASHBOARD = GRAFANA / "dashboards" / "seawall.json"
SDK = "grafana-foundation-sdk==1769699998!10.1.0"

pytestmark = pytest.mark.slow


def test_the_dashboard_is_what_the_script_builds() -> None:
    python = parts.environment("grafana", SDK) / "python"
    code = "import sys; sys.path.insert(0, sys.argv[1]); import build; sys.stdout.write(build.build())"
    built = subprocess.run([python, "-c", code, GRAFANA], check=True, capture_output=True, text=True).stdout
    assert json.loads(built) == json.loads(DASHBOARD.read_text("utf-8"))


def test_prometheus_can_parse_every_query(promtool: str, tmp_path: Path) -> None:
    board = json.loads(DASHBOARD.read_text("utf-8"))
    queries = [query["expr"] for panel in board["panels"] for query in panel.get("targets", ())]
    assert len(queries) > 40
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "5m").replace("$", "")}
        for number, query in enumerate(queries)
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
