"""The Helm chart renders, in each of its shapes, to objects that Kubernetes accepts and a configuration we accept."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from gateway.config import load_text
from tests.support import parts

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/kubernetes/seawall"
RENDERER = ROOT / "tests/support/helm/main.go"
PACKAGES = ("golang-go", "golang-github-masterminds-sprig-dev", "golang-gopkg-yaml.v3-dev")
SPRIG = Path("/usr/share/gocode/src/github.com/Masterminds/sprig")
VERSION = "1.37"

SHAPES: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "autoscaled by requests in flight and CPU": {"autoscaling": {"enabled": True}},
    "autoscaled by CPU alone": {"autoscaling": {"enabled": True, "inFlight": 0}},
    "closed network": {
        "networkPolicy": {
            "enabled": True,
            "from": [{"namespaceSelector": {"matchLabels": {"team": "apps"}}}],
            "egress": [{"ports": [{"port": 8000}], "to": [{"podSelector": {}}]}],
        }
    },
    "discovery": {"discovery": {"namespaces": ["models", "more-models"]}},
    "scraped": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    "workers scraped": {
        "workerMonitor": {"enabled": True, "namespaces": ["models"], "labels": {"release": "prometheus"}}
    },
    "placed": {
        "nodeSelector": {"pool": "cpu"},
        "tolerations": [{"key": "cpu", "operator": "Exists"}],
        "priorityClassName": "high",
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
        "imagePullSecrets": [{"name": "pull"}],
        "env": [{"name": "LOG", "value": "info"}],
        "service": {"annotations": {"e": "f"}, "type": "LoadBalancer"},
        "serviceAccount": {"create": False},
        "podDisruptionBudget": {"enabled": False},
    },
}


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = copy.deepcopy(base)
    for name, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(name), dict)
        out[name] = merged(out[name], value) if both else value
    return out


def values(over: dict[str, Any]) -> dict[str, Any]:
    return merged(yaml.safe_load((CHART / "values.yaml").read_text()), over)


@pytest.mark.parametrize("over", SHAPES.values(), ids=SHAPES)
def test_the_values_pass_their_schema(over: dict[str, Any]) -> None:
    jsonschema.validate(values(over), json.loads((CHART / "values.schema.json").read_text()))


@pytest.mark.parametrize(
    "over",
    [{"replica": 3}, {"service": {"port": 0}}, {"config": {"routes": []}}, {"autoscaling": {"cpu": 300}}],
    ids=str,
)
def test_values_that_are_wrong_do_not_pass(over: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values(over), json.loads((CHART / "values.schema.json").read_text()))


@pytest.fixture(scope="session")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that renders as Helm does, built once."""
    parts.debian(*PACKAGES, there=lambda: shutil.which("go") is not None and SPRIG.exists())
    program = tmp_path_factory.mktemp("helm") / "render"
    environ = os.environ | {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": ""}
    subprocess.run(["go", "build", "-o", program, RENDERER], check=True, env=environ)
    return program


def rendered(renderer: Path, tmp_path: Path, over: dict[str, Any]) -> list[dict[str, Any]]:
    file = tmp_path / "values.json"
    file.write_text(json.dumps(values(over)))
    argv = [renderer, CHART, "demo", "models", file]
    text = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    manifests = text[text.index("---\n# Source: configmap.yaml") :]
    return [document for document in yaml.safe_load_all(manifests) if document]


@pytest.mark.slow
@pytest.mark.parametrize("over", SHAPES.values(), ids=SHAPES)
def test_kubernetes_accepts_what_it_renders_to(renderer: Path, tmp_path: Path, over: dict[str, Any]) -> None:
    documents = rendered(renderer, tmp_path, over)
    kinds = [document["kind"] for document in documents]
    assert {"ConfigMap", "Deployment", "Service"} <= set(kinds)
    assert ("HorizontalPodAutoscaler" in kinds) is ("autoscaling" in over)
    assert ("NetworkPolicy" in kinds) is ("networkPolicy" in over)
    assert kinds.count("RoleBinding") == len(over.get("discovery", {}).get("namespaces", ()))
    for document in documents:
        if document["kind"] not in ("ServiceMonitor", "PodMonitor"):  # the Prometheus operator's, not Kubernetes' own
            kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.slow
def test_the_configuration_in_it_is_one_that_the_gateway_takes(renderer: Path, tmp_path: Path) -> None:
    documents = rendered(renderer, tmp_path, {"config": {"server": {"max_body": "1MiB"}}})
    (config_map,) = [document for document in documents if document["kind"] == "ConfigMap"]
    config = load_text(config_map["data"]["gateway.yaml"], environ={"SEAWALL_ADMIN_KEY": "k" * 32})
    assert (config.server.host, config.server.port, config.server.max_body) == ("0.0.0.0", 8080, 1 << 20)


@pytest.mark.slow
def test_pods_have_time_to_drain(renderer: Path, tmp_path: Path) -> None:
    documents = rendered(renderer, tmp_path, {"drainSeconds": 60, "preStopSeconds": 10})
    (deployment,) = [document for document in documents if document["kind"] == "Deployment"]
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 75
