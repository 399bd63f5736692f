"""The Grafana dashboard asks for metrics, labels and variables that exist, and lies where Grafana looks for it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.observe.exposition import FAMILIES
from tests.support.promql import check_query

GRAFANA = Path(__file__).parents[3] / "deploy" / "grafana"
DASHBOARDS = [json.loads(path.read_text("utf-8")) for path in sorted((GRAFANA / "dashboards").glob("*.json"))]

each_dashboard = pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board["title"])


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in board["panels"]:
        if panel["type"] != "row":
            yield panel
        yield from panel.get("panels", ())


def expressions(board: dict[str, Any]) -> list[tuple[str, str]]:
    """(PromQL, legend) of every query of every panel."""
    return [(query["expr"], query.get("legendFormat", "")) for panel in panels(board) for query in panel["targets"]]


@each_dashboard
def test_queries_use_only_metrics_and_labels_that_exist(board: dict[str, Any]) -> None:
    assert len(expressions(board)) > 40
    for expression, legend in expressions(board):
        check_query(expression)
        for label in re.findall(r"\{\{(\w+)\}\}", legend):
            grouped = re.search(rf"by \([^)]*\b{label}\b", expression)
            assert grouped or expression.startswith(("rate(process", "process_")), f"{legend} of {expression}"


@each_dashboard
def test_the_signals_that_matter_are_on_panels(board: dict[str, Any]) -> None:
    shown = " ".join(expression for expression, _ in expressions(board))
    for signal in (
        *("requests_total", "errors_total", "request_duration_seconds", "time_to_first_token_seconds", "tokens_total"),
        *("attempts_total", "retries_total", "hedges_total", "fallbacks_total", "retry_budget_exhausted_total"),
        *("stream_resumes_total", "stream_interrupted_total", "degradation_level", "queue_length", "shed_total"),
        *("endpoint_breaker_state", "endpoint_healthy", "endpoint_in_flight", "endpoint_concurrency_limit"),
        *("overhead_seconds", "reloads_total", "trace_spans_total", "alert_messages_total"),
    ):
        assert f"seawall_{signal}" in shown, signal


@each_dashboard
def test_variables_are_declared_and_their_queries_name_what_exists(board: dict[str, Any]) -> None:
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert {"datasource", "instance", "route", "backend"} <= variables.keys()
    used = set(re.findall(r"\$(\w+)", json.dumps([expression for expression, _ in expressions(board)])))
    assert used - {"__rate_interval"} <= variables.keys()
    for variable in variables.values():
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"])
            assert match is not None
            assert match[2] in {*FAMILIES[match[1]].labels, "instance"}


@each_dashboard
def test_panels_say_what_they_show_and_lie_beside_each_other(board: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    for panel in panels(board):
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        letters = [query["refId"] for query in panel["targets"]]
        assert len(letters) == len(set(letters))


def test_provisioning_and_compose_put_the_dashboard_where_grafana_looks() -> None:
    provider = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "seawall.yaml").read_text("utf-8"))
    folder = provider["providers"][0]["options"]["path"]
    compose = yaml.safe_load((GRAFANA.parent / "compose" / "compose.yaml").read_text("utf-8"))
    assert f"../grafana/dashboards:{folder}:ro" in compose["services"]["grafana"]["volumes"]
