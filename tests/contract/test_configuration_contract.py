"""gateway.yaml: every key that is shown loads, quantities and variables, and what a mistake is told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.config import load_text
from tests.contract.sample import SAMPLE

KEY = {"TEAM_A_KEY": "k"}
SMALLEST = "backends: {a: {url: 'http://a'}, b: {url: 'http://b'}, c: {url: 'http://c'}}\n"
ROUTE = "routes: [{model: m, backends: [a], fallback: [b, c]}]\n"


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    """One command of `seawall`."""
    return CliRunner().invoke(app, arguments, env=env)


@pytest.fixture
def check(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Checks a text as a file; the result, with the file's name shortened to `gateway.yaml`."""

    def checked(text: str, **env: str) -> tuple[int, str]:
        path = tmp_path / "gateway.yaml"
        path.write_text(text)
        result = run("check", str(path), env=env)
        return result.exit_code, result.output.replace(str(tmp_path) + "/", "")

    return checked


def test_the_sample_is_sound(check) -> None:  # type: ignore[no-untyped-def]
    status, output = check(SAMPLE, **KEY)
    assert status == 0, output
    assert "no errors, no warnings" in output


def test_the_sample_fits_the_json_schema_whichever_yaml_it_is_read_as() -> None:
    schema = json.loads(run("schema").output)
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    as_yaml_1_1 = yaml.safe_load(SAMPLE)
    validator(schema).validate(as_yaml_1_1)
    retry = as_yaml_1_1["policies"]["chat"]["retry"]
    retry["on"] = retry.pop(True)
    validator(schema).validate(as_yaml_1_1)
    retry["onn"] = retry["on"]
    assert not validator(schema).is_valid(as_yaml_1_1)


def test_a_missing_variable_is_an_error_and_a_default_covers_it(check) -> None:  # type: ignore[no-untyped-def]
    status, output = check(SAMPLE, TEAM_A_KEY=None)
    assert status == 1
    assert "gateway.yaml:10:27: auth.keys[0].key: the environment variable TEAM_A_KEY is not set" in output
    assert check(SAMPLE.replace("${TEAM_A_KEY}", "${TEAM_A_KEY:-other}"), TEAM_A_KEY=None)[0] == 0


def test_variables_stand_anywhere_in_a_string() -> None:
    text = "backends: {a: {url: 'http://${HOST}:${PORT:-8000}', headers: {X-A: 'b-${HOST}-c'}}}\n"
    config = load_text(text + "routes: [{model: m, backends: [a]}]", environ={"HOST": "box"})
    assert config.backends["a"].url == "http://box:8000"
    assert config.backends["a"].headers["X-A"].get_secret_value() == "b-box-c"


MORE_KEYS = """
backends:
  a:
    url: https://a
    api_key: secret
    headers: {X-Team: search}
    tls: {verify: false}
    context_length: 4096
    health: {path: /health, interval: 5s, timeout: 250ms, probe: generate, healthy_after: 1, unhealthy_after: 2}
    discover: dns
  b: {url: "http://b", discover: kubernetes}
  c: {url: "http://c"}
routes:
  - model: [exact, "glob*"]
    backends: [a]
    fallback: [b, [c, {backend: b, model: second}], {backend: c, model: third}]
policies:
  default:
    timeout: {connect: 250ms, idle: 2s, first_token: 1.5m, total: 1h}
    concurrency: {mode: fixed, limit: 64}
    hedge: {after: p95}
    fault: {abort: 0.1, status: 503, delay: 2s, share: 0.05}
"""


def test_the_keys_and_values_named_in_comments_load() -> None:
    config = load_text(MORE_KEYS)
    timeout = config.policies["default"].timeout
    assert (timeout.connect, timeout.idle, timeout.first_token, timeout.total) == (0.25, 2.0, 90.0, 3600.0)
    tiers = [[(target.backend, target.model) for target in tier] for tier in config.routes[0].tiers]
    assert tiers == [[("a", None)], [("b", None)], [("c", None), ("b", "second")], [("c", "third")]]


@pytest.mark.parametrize("kind", ["vllm", "sglang", "llamacpp", "tgi", "diffusers", "openai", "anthropic", "embedded"])
def test_every_kind_of_backend_loads(kind: str) -> None:
    load_text(f"backends: {{a: {{url: 'http://a', kind: {kind}}}}}\nroutes: [{{model: m, backends: [a]}}]")


@pytest.mark.parametrize("balance", ["round_robin", "random", "p2c", "least_load", "prefix", "session"])
def test_every_way_of_balancing_loads(balance: str) -> None:
    assert load_text(SMALLEST + ROUTE + f"policies: {{default: {{balance: {balance}}}}}")


@pytest.mark.parametrize(("size", "expected"), [("64KiB", 65536), ("20MiB", 20971520), ("1MiB", 1048576)])
def test_sizes(size: str, expected: int) -> None:
    assert load_text(SMALLEST + ROUTE + f"server: {{max_body: {size}}}").server.max_body == expected


@pytest.mark.parametrize(
    ("written", "instead", "at", "suggestion"),
    [
        ("max_body", "max_bdy", "4:3: server.max_bdy", "max_body"),
        ("circuit_breaker", "circuit_braker", "30:5: policies.chat.circuit_braker", "circuit_breaker"),
        ("first_token: 30s", "frist_token: 30s", "28:28: policies.chat.timeout.frist_token", "first_token"),
        ("routes:", "rotues:", "18:1: rotues", "routes"),
        ("kind: diffusers", "kind: difusers", "15:48: backends.sdxl.kind", "diffusers"),
        ("least_load ", "leastload ", "27:14: policies.chat.balance", "least_load"),
        ("fallback: [small]", "fallback: [smal]", "21:16: routes[0].fallback[0]", "small"),
        ("policy: chat", "policy: chatt", "22:13: routes[0].policy", "chat"),
    ],
)
def test_a_mistake_is_told_with_line_column_and_suggestion(  # type: ignore[no-untyped-def]
    check, written: str, instead: str, at: str, suggestion: str
) -> None:
    status, output = check(SAMPLE.replace(written, instead, 1), **KEY)
    assert status == 1
    assert re.search(rf"^error: gateway\.yaml:{re.escape(at)}: .*did you mean {suggestion}\?", output, re.MULTILINE)


def test_every_problem_is_told_at_once(check) -> None:  # type: ignore[no-untyped-def]
    text = SAMPLE.replace("max_body", "max_bdy").replace("drain: 30s", "drain: 30 days").replace("[small]", "[smal]")
    status, output = check(text, TEAM_A_KEY=None)
    assert status == 1
    for said in ("server.max_bdy", "server.drain", "TEAM_A_KEY", "routes[0].fallback[0]", "4 errors"):
        assert said in output


@pytest.mark.parametrize("text", ["", "a: [b", "- 1", "backends: {}\nroutes: []", SMALLEST, ROUTE])
def test_what_is_no_configuration_is_an_error_and_no_traceback(check, text: str) -> None:  # type: ignore[no-untyped-def]
    status, output = check(text)
    assert status == 1
    assert output.startswith("error: gateway.yaml:")
    assert "Traceback" not in output


def test_an_open_listener_without_keys_is_a_warning_but_not_on_loopback(check) -> None:  # type: ignore[no-untyped-def]
    status, output = check(SMALLEST + ROUTE + "server: {listen: '0.0.0.0:8080'}")
    assert status == 0
    assert "warning: gateway.yaml:3:18: server.listen: no API keys" in output
    assert "no warnings" in check(SMALLEST + ROUTE)[1]


def test_the_policies_default_and_images_exist_and_may_be_written() -> None:
    route = "routes: [{model: m, backends: [a], policy: images}]\n"
    assert load_text(SMALLEST + route).policies["images"].timeout.first_token == 120.0
    written = "policies: {default: {timeout: {first_token: 5s}}, images: {retry: {attempts: 1}}}"
    images = load_text(SMALLEST + route + written).policies["images"]
    assert (images.timeout.first_token, images.retry.attempts) == (5.0, 1)
