from __future__ import annotations

import re
from pathlib import Path

import yaml

from gateway.observe.exposition import FAMILIES
from policies.outcome import ErrorKind

ROOT = Path(__file__).parents[3]
RULES = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text("utf-8"))
EXPRESSIONS = [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]


def test_rules_and_documented_queries_use_only_metrics_and_error_types_that_exist() -> None:
    document = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    queries = [*EXPRESSIONS, *re.findall(r"```promql\n(.*?)```", document, re.DOTALL)]
    assert len(queries) > len(EXPRESSIONS)
    for query in queries:
        for name in re.findall(r"\bseawall_\w+", query):
            assert re.sub(r"_(bucket|sum|count)$", "", name) in FAMILIES, name
        for types in re.findall(r'error_type=~"([^"]*)"', query):
            assert set(types.split("|")) <= {kind.value for kind in ErrorKind}


def test_rules_use_only_recorded_names_that_exist() -> None:
    recorded = {rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}
    for expression in EXPRESSIONS:
        assert set(re.findall(r"\bseawall:[\w:]+", expression)) <= recorded
