"""Holds queries against the metrics that the gateway really has."""

from __future__ import annotations

import re
from functools import cache

from backends.workers.gpu_watch import FAMILIES as GPU_FAMILIES
from backends.workers.supervisor_report import FAMILIES as WORKER_FAMILIES
from gateway.observe.exposition import FAMILIES, Family
from policies.outcome import ErrorKind

#: Labels that Prometheus sets, and those of histograms.
OTHER_LABELS = {"job", "instance", "le"}
#: Values of `outcome` and `reason` that are no error types.
OTHER_OUTCOMES = {"ok", "beaten"}
_METRIC = re.compile(r"\b((?:seawall|process)_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)(=~|!=|=|!~)"([^"]*)"')
_GROUPING = re.compile(r"\bby \(([^)]*)\)")


@cache
def _families() -> dict[str, Family]:
    """The gateway's metrics, and those of workers' supervisors."""
    workers = {name: (*told, ("worker", "state", "cause")) for name, told in WORKER_FAMILIES.items()}
    devices = {name: (*told, ("gpu", "name")) for name, told in GPU_FAMILIES.items()}
    told = {name: Family(name, kind, meaning, labels) for name, (kind, meaning, labels) in (workers | devices).items()}
    return told | FAMILIES


def check_query(query: str) -> None:
    """Raises AssertionError for a metric, label or error type that does not exist."""
    labels = set(OTHER_LABELS)
    for name, selector in _METRIC.findall(query):
        family = _families().get(re.sub(r"_(bucket|sum|count)$", "", name)) or _families().get(name)
        assert family is not None, f"no metric {name}"
        assert name == family.name or family.kind == "histogram", f"no metric {name}"
        labels |= set(family.labels)
        for label, _, value in _MATCHER.findall(selector):
            assert label in {*family.labels, *OTHER_LABELS}, f"{name} has no label {label}"
            if label in ("error_type", "outcome", "reason") and "$" not in value and name != "seawall_shed_total":
                known = {*OTHER_OUTCOMES, *(kind.value for kind in ErrorKind)}
                assert set(value.split("|")) <= known, f"no error type {value}"
    if "seawall:" not in query:
        for group in _GROUPING.findall(query):
            assert {label.strip() for label in group.split(",")} <= labels, f"grouped by what is no label: {group}"
