"""`seawall import litellm`: a LiteLLM proxy's configuration as a gateway.yaml.

Settings: https://docs.litellm.ai/docs/proxy/configs. What has no counterpart is named in the notes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from gateway.setup.draft import Draft, slug

_KINDS = {
    "hosted_vllm": "vllm",
    "vllm": "vllm",
    "openai": "openai",
    "text-completion-openai": "openai",
    "custom_openai": "openai",
    "openai_like": "openai",
    "litellm_proxy": "openai",
    "lm_studio": "openai",
    "llamafile": "llamacpp",
    "ollama": "ollama",
    "ollama_chat": "ollama",
    "anthropic": "anthropic",
    "triton": "triton",
    "huggingface": "tgi",
}
#: Providers with OpenAI's API at an address of their own.
_HOSTED = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "groq": "https://api.groq.com/openai/v1",
    "mistral": "https://api.mistral.ai/v1",
    "deepseek": "https://api.deepseek.com/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "together_ai": "https://api.together.xyz/v1",
    "fireworks_ai": "https://api.fireworks.ai/inference/v1",
    "xai": "https://api.x.ai/v1",
}
_BALANCE = {
    "simple-shuffle": "random",
    "least-busy": "least_load",
    "latency-based-routing": "p2c",
    "usage-based-routing": "least_load",
    "usage-based-routing-v2": "least_load",
}
_FALLBACKS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "default_fallbacks")
_USED_PARAMS = {"model", "api_base", "api_key", "weight", "order", "max_parallel_requests", "extra_headers", "base_url"}
_USED_ROUTER = {"routing_strategy", "num_retries", "timeout", "stream_timeout", "allowed_fails", "cooldown_time"}
_USED_SETTINGS = {"num_retries", "request_timeout", "allowed_fails", "cooldown_time", "drop_params", "set_verbose"}


def convert(document: Mapping[str, Any]) -> Draft:
    """The draft of a parsed LiteLLM configuration. Raises ValueError when it has no `model_list`."""
    models = document.get("model_list")
    if not isinstance(models, list) or not models:
        raise ValueError("it has no model_list: not a LiteLLM proxy's configuration, or its models are in a database")
    return _Conversion(document).draft(models)


class _Conversion:
    def __init__(self, document: Mapping[str, Any]) -> None:
        self._router = _mapping(document.get("router_settings"))
        self._settings = _mapping(document.get("litellm_settings"))
        self._general = _mapping(document.get("general_settings"))
        self._result = Draft(server={"listen": "127.0.0.1:4000"})

    def draft(self, models: list[Any]) -> Draft:
        groups: dict[str, dict[int, list[str]]] = {}
        for entry in models:
            params = _mapping(_mapping(entry).get("litellm_params"))
            name = str(_mapping(entry).get("model_name", params.get("model", "")))
            backend = self._backend(name, params)
            if backend is not None:
                order = params.get("order")
                groups.setdefault(name, {}).setdefault(order if isinstance(order, int) else 0, []).append(backend)
        tiers = {name: [group[order] for order in sorted(group)] for name, group in groups.items()}
        fallbacks = dict(self._fallbacks())
        for name, own in tiers.items():
            others = fallbacks.get(name, fallbacks.get("*", []))
            for other in others:
                if other not in tiers:
                    self._note(f"left out: {other}, a fallback that no model has")
            self._route(name, own, [tiers[other] for other in others if other in tiers])
        self._policy()
        self._key()
        self._say_what_is_left()
        return self._result

    def _backend(self, group: str, params: dict[str, Any]) -> str | None:
        named = str(params.get("model", group))
        provider, slash, model = named.partition("/")
        if not slash:
            provider, model = "openai", named
        base = params.get("api_base") or params.get("base_url") or _HOSTED.get(provider)
        kind = _KINDS.get(provider, "openai" if provider in _HOSTED else None)
        if kind is None or base is None:
            self._note(f"left out: {group} on {provider}, whose API Seawall does not speak")
            return None
        settings: dict[str, Any] = {"url": self._reference(str(base)), "kind": kind}
        if "*" not in model:
            settings["model"] = model
        if params.get("api_key"):
            settings["api_key"] = self._secret(str(params["api_key"]), f"{slug(group)}-api-key")
        if isinstance(params.get("weight"), int | float):
            settings["weight"] = params["weight"]
        if isinstance(params.get("max_parallel_requests"), int):
            settings["max_concurrency"] = params["max_parallel_requests"]
        for name in sorted(map(str, set(params) - _USED_PARAMS)):
            self._note(f"not carried over: {name} of {group}")
        host = urlsplit(str(base)).hostname or ""
        return self._result.add_backend(f"{group}-{host.split('.')[0]}" if not host[:1].isdigit() else group, settings)

    def _fallbacks(self) -> Iterator[tuple[str, list[str]]]:
        """(model group, groups to go on to), those of every kind of failure together."""
        together: dict[str, list[str]] = {}
        for source in (self._router, self._settings):
            for kind in _FALLBACKS:
                listed = source.get(kind)
                for entry in listed if isinstance(listed, list) else ():
                    pairs = {"*": [entry]} if isinstance(entry, str) else _mapping(entry)
                    for name, others in pairs.items():
                        for other in others if isinstance(others, list) else [others]:
                            if other != name and other not in together.setdefault(name, []):
                                together[name].append(str(other))
        yield from together.items()

    def _route(self, name: str, own: list[list[str]], others: list[list[list[str]]]) -> None:
        route: dict[str, Any] = {"model": name, "backends": own[0]}
        seen = set(own[0])
        later = []
        for tier in [*own[1:], *(tier for group in others for tier in group)]:
            fresh = [backend for backend in tier if backend not in seen]
            seen.update(fresh)
            if fresh:
                later.append(fresh[0] if len(fresh) == 1 else fresh)
        if later:
            route["fallback"] = later
        self._result.routes.append(route)

    def _policy(self) -> None:
        policy: dict[str, Any] = {}
        timeout = {
            setting: f"{value:g}s"
            for setting, value in (
                ("first_token", self._router.get("stream_timeout")),
                ("total", self._router.get("timeout", self._settings.get("request_timeout"))),
            )
            if isinstance(value, int | float) and value > 0
        }
        if timeout:
            policy["timeout"] = timeout
        retries = self._router.get("num_retries", self._settings.get("num_retries"))
        if isinstance(retries, int):
            policy["retry"] = {"attempts": max(1, min(10, retries + 1))}
        breaker: dict[str, Any] = {}
        fails = self._router.get("allowed_fails", self._settings.get("allowed_fails"))
        if isinstance(fails, int):
            breaker["consecutive_failures"] = max(1, fails + 1)
        pause = self._router.get("cooldown_time", self._settings.get("cooldown_time"))
        if isinstance(pause, int | float) and pause > 0:
            breaker["open_for"] = f"{pause:g}s"
        if breaker:
            policy["circuit_breaker"] = breaker
        strategy = self._router.get("routing_strategy")
        if strategy in _BALANCE:
            policy["balance"] = _BALANCE[strategy]
        if policy:
            self._result.policies["default"] = policy

    def _key(self) -> None:
        master = self._general.get("master_key")
        if master:
            key = self._secret(str(master), "litellm-master-key")
            self._result.keys.append({"name": "master", "key": key})
            self._result.server["admin"] = {"key": key}

    def _say_what_is_left(self) -> None:
        for section, settings, used in (
            ("router_settings", self._router, _USED_ROUTER | set(_FALLBACKS)),
            ("litellm_settings", self._settings, _USED_SETTINGS | set(_FALLBACKS)),
            ("general_settings", self._general, {"master_key"}),
        ):
            for name in sorted(map(str, set(settings) - used)):
                self._note(f"not carried over: {section}.{name}")

    # -- secrets -------------------------------------------------------------------------------------------------------

    def _reference(self, value: str) -> str:
        """`os.environ/NAME` as `${NAME}`."""
        return _variable(value.removeprefix("os.environ/")) if value.startswith("os.environ/") else value

    def _secret(self, value: str, wish: str) -> str:
        """A reference to a variable; a secret that stands in the file is not copied but asked for."""
        if value.startswith("os.environ/"):
            return self._reference(value)
        variable = wish.upper().replace("-", "_")
        self._note(f"set ${variable}: the secret stood in the file and was not copied")
        return _variable(variable)

    def _note(self, text: str) -> None:
        if text not in self._result.notes:
            self._result.notes.append(text)


def _variable(name: str) -> str:
    return "${" + name + "}"


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
