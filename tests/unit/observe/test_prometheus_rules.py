"""The rules and alerts name what exists: metrics and labels of the real exposition, error types, runbooks, tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.support.promql import check_query

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = yaml.safe_load((PROMETHEUS / "rules.yml").read_text("utf-8"))
TESTS = yaml.safe_load((PROMETHEUS / "rules.test.yml").read_text("utf-8"))["tests"]
EVERY = [rule for group in RULES["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in EVERY if "alert" in rule]
EXPRESSIONS = [rule["expr"] for rule in EVERY]
RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text("utf-8")

each_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])


def queries() -> list[str]:
    documents = [(ROOT / "docs" / name).read_text("utf-8") for name in ("metrics.md", "runbooks.md")]
    found = [query for text in documents for query in re.findall(r"```promql\n(.*?)```", text, re.DOTALL)]
    assert found
    return [*EXPRESSIONS, *found]


def test_rules_and_documented_queries_use_only_metrics_labels_and_error_types_that_exist() -> None:
    for query in queries():
        check_query(query)


@pytest.mark.parametrize(
    "query",
    [
        "rate(seawall_no_such_total[5m])",
        "seawall_requests_total_sum",
        'seawall_errors_total{kind="x"}',
        'seawall_errors_total{error_type="typo"}',
        "sum by (backend) (rate(seawall_errors_total[5m]))",
    ],
)
def test_a_name_that_does_not_exist_is_found(query: str) -> None:
    with pytest.raises(AssertionError):
        check_query(query)


def test_rules_use_only_recorded_names_that_exist() -> None:
    recorded = {rule["record"] for rule in EVERY if "record" in rule}
    for expression in EXPRESSIONS:
        assert set(re.findall(r"\bseawall:[\w:]+", expression)) <= recorded


@each_alert
def test_an_alert_has_a_severity_a_summary_and_a_runbook_with_every_part(alert: dict) -> None:  # type: ignore[type-arg]
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert alert["annotations"]["summary"]
    assert alert["annotations"]["runbook"] == f"docs/runbooks.md#{alert['alert'].lower()}"
    section = re.search(rf"^### {alert['alert']}\n(.*?)(?=^##|\Z)", RUNBOOKS, re.MULTILINE | re.DOTALL)
    assert section is not None, "no section in docs/runbooks.md"
    for part in ("Meaning", "First look", "ause", "ure"):
        assert part in section[1]


@each_alert
def test_an_alert_is_seen_firing_by_promtools_tests(alert: dict) -> None:  # type: ignore[type-arg]
    name = f'ALERTS{{alertname="{alert["alert"]}"'
    cases = [case for test in TESTS for case in test["promql_expr_test"] if case["expr"].startswith(name)]
    assert any(case["exp_samples"] for case in cases)


def test_compose_and_the_plain_configuration_load_the_same_rules() -> None:
    for path in (PROMETHEUS / "prometheus.yml", ROOT / "deploy" / "compose" / "prometheus.yml"):
        assert yaml.safe_load(path.read_text("utf-8"))["rule_files"] == ["rules.yml"]
