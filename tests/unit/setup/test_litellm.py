"""LiteLLM's configurations become ours, secrets as variables, and what has no counterpart is said."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Config, load_text
from gateway.setup.litellm import convert

FULL = """
model_list:
  - model_name: llama
    litellm_params: {model: hosted_vllm/meta-llama/Llama-3.1-8B, api_base: "http://10.0.0.5:8000/v1", weight: 2}
  - model_name: llama
    litellm_params: {model: hosted_vllm/meta-llama/Llama-3.1-8B, api_base: "http://10.0.0.6:8000", order: 2, rpm: 60}
  - model_name: cloud
    litellm_params: {model: openai/gpt-4o, api_key: os.environ/OPENAI_API_KEY, max_parallel_requests: 8}
  - model_name: claude
    litellm_params: {model: anthropic/claude-sonnet, api_key: sk-ant-very-secret-value}
  - model_name: far
    litellm_params: {model: bedrock/titan}
router_settings:
  routing_strategy: least-busy
  num_retries: 2
  timeout: 60
  stream_timeout: 20
  cooldown_time: 15
  allowed_fails: 3
  fallbacks: [{llama: [cloud, claude, nowhere]}, {cloud: [llama]}]
  redis_host: os.environ/REDIS_HOST
litellm_settings:
  callbacks: [langfuse]
  context_window_fallbacks: [{llama: [claude]}]
general_settings: {master_key: sk-1234-master-secret, database_url: "postgres://x"}
"""


def converted(text: str) -> tuple[Config, list[str], str]:
    draft = convert(yaml.safe_load(text))
    written = draft.text()
    environ = {name: f"https://value-of-{name}".lower() for name in re.findall(r"\$\{(\w+)\}", written)}
    return load_text(written, environ=environ), draft.notes, written


def test_a_whole_configuration_is_carried_over() -> None:
    config, notes, written = converted(FULL)
    llama, cloud, claude = config.routes
    assert [[target.backend for target in tier] for tier in llama.tiers] == [
        ["llama"],
        ["llama-2"],
        ["cloud-api"],
        ["claude-api"],
    ]
    assert [[target.backend for target in tier] for tier in cloud.tiers] == [["cloud-api"], ["llama"], ["llama-2"]]
    assert len(claude.tiers) == 1
    assert config.backends["llama"].url == "http://10.0.0.5:8000"
    assert config.backends["llama"].model == "meta-llama/Llama-3.1-8B"
    assert config.backends["llama"].weight == 2
    assert config.backends["cloud-api"].url == "https://api.openai.com"
    assert config.backends["cloud-api"].max_concurrency == 8
    assert config.backends["claude-api"].kind == "anthropic"
    policy = config.policy_for(llama)
    assert (policy.timeout.first_token, policy.timeout.total) == (20, 60)
    assert policy.retry.attempts == 3
    assert policy.circuit_breaker.open_for == 15
    assert policy.balance == "least_load"
    assert [key.name for key in config.auth.keys] == ["master"]
    assert "secret" not in written.replace("the secret stood in the file", "")
    assert "${OPENAI_API_KEY}" in written
    assert {
        "left out: far on bedrock, whose API Seawall does not speak",
        "left out: nowhere, a fallback that no model has",
        "not carried over: rpm of llama",
        "not carried over: router_settings.redis_host",
        "not carried over: litellm_settings.callbacks",
        "not carried over: general_settings.database_url",
    } <= set(notes)


@pytest.mark.parametrize(
    ("params", "url", "kind", "model"),
    [
        ({"model": "gpt-4o"}, "https://api.openai.com", "openai", "gpt-4o"),
        ({"model": "ollama_chat/llama3", "api_base": "http://h:11434"}, "http://h:11434", "ollama", "llama3"),
        ({"model": "groq/a/b"}, "https://api.groq.com/openai", "openai", "a/b"),
        ({"model": "openai/*", "api_base": "http://h:1"}, "http://h:1", "openai", None),
        ({"model": "openai/m", "api_base": "os.environ/BASE"}, "https://value-of-base", "openai", "m"),
    ],
)
def test_a_provider_becomes_a_url_and_a_kind(params: dict[str, str], url: str, kind: str, model: str | None) -> None:
    document = {"model_list": [{"model_name": "m", "litellm_params": params}]}
    config, _, _ = converted(yaml.safe_dump(document))
    (backend,) = config.backends.values()
    assert (backend.url, backend.kind, backend.model) == (url, kind, model)


@pytest.mark.parametrize("text", ["{}", "model_list: []", "model_list: x", "[1]"])
def test_what_is_no_such_configuration_is_said(text: str) -> None:
    with pytest.raises((ValueError, AttributeError)):
        convert(yaml.safe_load(text))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(values, min_size=1, max_size=4), values, values)
def test_odd_values_never_break_it(models: list[Any], router: Any, settings: Any) -> None:
    convert({"model_list": models, "router_settings": router, "litellm_settings": settings})
