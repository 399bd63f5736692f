"""The gateway and its peers before backends a and b with c as fallback, each configured as its documentation advises
for this purpose and with the same waits: half a second to connect, one second for a first token and for a silence."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.subjects import PORTKEY_FILE, home, portkey_command

Urls = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Subject:
    """`command(work, port, urls)` writes the configuration into `work`; `installed` is None when nothing is needed.
    `rate`: requests a second that it can do on a part of a core, so that faults are measured and not its capacity."""

    name: str
    command: Callable[[Path, int, Urls], list[str]]
    installed: Path | None = None
    headers: Callable[[Urls], dict[str, str]] = lambda urls: {}
    env: dict[str, str] = field(default_factory=dict)
    rate: float = 40.0


_SEAWALL = """\
server: {{listen: 127.0.0.1:{port}}}
backends:
  a: {{url: "{a}", kind: vllm, health: {{interval: 1s, timeout: 1s}}}}
  b: {{url: "{b}", kind: vllm, health: {{interval: 1s, timeout: 1s}}}}
  c: {{url: "{c}", kind: vllm, health: {{interval: 1s, timeout: 1s}}}}
routes: [{{model: tiny, backends: [a, b], fallback: [c]}}]
policies:
  default:
    timeout: {{connect: 500ms, first_token: 1s, idle: 1s, total: 15s}}
    circuit_breaker: {{open_for: 1s}}
"""


def _seawall(work: Path, port: int, urls: Urls) -> list[str]:
    config = work / "gateway.yaml"
    config.write_text(_SEAWALL.format(port=port, **urls))
    return [sys.executable, "-m", "gateway", "serve", "--config", str(config)]


def _envoy(work: Path, port: int, urls: Urls) -> list[str]:
    def locality(priority: int, names: str) -> dict[str, object]:
        endpoints = [
            {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": _port(urls[name])}}}}
            for name in names
        ]
        return {"priority": priority, "lb_endpoints": endpoints}

    any_ = "type.googleapis.com/envoy.extensions"
    retry = {
        "retry_on": "5xx,reset,connect-failure,refused-stream",
        "num_retries": 2,
        "per_try_idle_timeout": "1s",
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {"@type": f"{any_}.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
            }
        ],
        "retry_priority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {
                "@type": f"{any_}.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                "update_frequency": 2,
            },
        },
        "host_selection_retry_max_attempts": 3,
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "llm", "timeout": "15s", "retry_policy": retry}}
    manager = {
        "@type": f"{any_}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "chaos",
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{any_}.filters.http.router.v3.Router"}}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
    }
    cluster = {
        "name": "llm",
        "connect_timeout": "0.5s",
        "lb_policy": "LEAST_REQUEST",
        "outlier_detection": {"consecutive_5xx": 5, "interval": "1s", "base_ejection_time": "1s"},
        "health_checks": [
            {
                "timeout": "1s",
                "interval": "1s",
                "unhealthy_threshold": 3,
                "healthy_threshold": 2,
                "http_health_check": {"path": "/health"},
            }
        ],
        "circuit_breakers": {"thresholds": [{"max_retries": 1000}]},
        "load_assignment": {"cluster_name": "llm", "endpoints": [locality(0, "ab"), locality(1, "c")]},
    }
    config = work / "envoy.json"
    config.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    program = str(home("envoy") / "bin/envoy")
    return [program, "-c", str(config), "--concurrency", "1", "--log-level", "error", "--use-dynamic-base-id"]


_LITELLM = """\
model_list:
- {{model_name: tiny, litellm_params: {{model: hosted_vllm/tiny, api_base: "{a}/v1", timeout: 1, stream_timeout: 1}}}}
- {{model_name: tiny, litellm_params: {{model: hosted_vllm/tiny, api_base: "{b}/v1", timeout: 1, stream_timeout: 1}}}}
- {{model_name: spare, litellm_params: {{model: hosted_vllm/tiny, api_base: "{c}/v1", timeout: 1, stream_timeout: 1}}}}
router_settings:
  num_retries: 2
  timeout: 1
  stream_timeout: 1
  allowed_fails: 3
  cooldown_time: 1
  fallbacks: [{{tiny: [spare]}}]
"""


def _litellm(work: Path, port: int, urls: Urls) -> list[str]:
    config = work / "litellm.yaml"
    config.write_text(_LITELLM.format(**urls))
    program = str(home("litellm") / "bin/litellm")
    return [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]


def _sglang(work: Path, port: int, urls: Urls) -> list[str]:
    program = [str(home("sglang-router") / "bin/python"), "-m", "sglang_router.launch_router"]
    return [*program, *_rust_router(port, urls)]


def _vllm(work: Path, port: int, urls: Urls) -> list[str]:
    return [str(home("vllm-router") / "bin/vllm-router"), *_rust_router(port, urls)]


def _rust_router(port: int, urls: Urls) -> list[str]:
    """Neither has tiers, nor a wait for the first token or for a silence: all three share, and health checks tell."""
    waits = ["--request-timeout-secs", "15", "--cb-timeout-duration-secs", "1"]
    waits += ["--health-check-interval-secs", "1", "--health-check-timeout-secs", "1"]
    own = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(port + 1000)]
    return [*own, "--worker-urls", *urls.values(), "--policy", "round_robin", "--log-level", "error", *waits]


def _portkey(work: Path, port: int, urls: Urls) -> list[str]:
    return portkey_command(port)


def _portkey_headers(urls: Urls) -> dict[str, str]:
    """Its retries go to the same target, a second later; a chain of fallbacks goes to another at once."""

    def chain(names: str) -> dict[str, object]:
        targets = [{"provider": "openai", "custom_host": urls[name] + "/v1", "api_key": "none"} for name in names]
        return {"strategy": {"mode": "fallback"}, "targets": targets}

    config = {
        "strategy": {"mode": "loadbalance"},
        "targets": [chain("abc"), chain("bac")],
        "request_timeout": 1_000,
    }
    return {"x-portkey-config": json.dumps(config)}


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


SUBJECTS = (
    Subject("seawall", _seawall),
    Subject("envoy", _envoy, home("envoy") / "bin/envoy"),
    Subject(
        "litellm",
        _litellm,
        home("litellm") / "bin/litellm",
        env={"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"},
        rate=10.0,
    ),
    Subject(
        "portkey",
        _portkey,
        home("portkey") / PORTKEY_FILE,
        _portkey_headers,
        {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"},
    ),
    Subject("sglang-router", _sglang, home("sglang-router") / "bin/python"),
    Subject("vllm-router", _vllm, home("vllm-router") / "bin/vllm-router"),
)
BY_NAME = {subject.name: subject for subject in SUBJECTS}
