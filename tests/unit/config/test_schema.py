import pytest
from pydantic import ValidationError

from gateway.config.loader import load_text
from gateway.config.schema import Config
from policies.outcome import ErrorKind
from tests.contract.sample import SAMPLE

SMALLEST = {"backends": {"a": {"url": "http://a:1"}}, "routes": [{"model": "m", "backends": ["a"]}]}


def config_with(**sections):
    return Config.model_validate({**SMALLEST, **sections})


def policy(**settings):
    return config_with(policies={"chat": settings}).policies["chat"]


def test_the_contract_loads():
    config = load_text(SAMPLE, environ={"TEAM_A_KEY": "s3cret-of-team-a"})
    assert (config.server.host, config.server.port, config.server.max_body) == ("127.0.0.1", 8080, 20 * 2**20)
    assert config.server.drain == 30.0
    (key,) = config.auth.keys
    assert key.key.get_secret_value() == "s3cret-of-team-a"
    assert (key.requests_per_minute, key.tokens_per_minute, key.concurrency, key.priority) == (600, 200000, 32, 5)
    assert config.backends["llama-b"].weight == 2
    assert config.backends["small"].model == "qwen-0.5b"
    assert config.routes[0].model == ("llama-3.1-8b",)
    assert [[target.backend for target in tier] for tier in config.routes[0].tiers] == [
        ["llama-a", "llama-b"],
        ["small"],
    ]
    chat = config.policy_for(config.routes[0])
    assert chat.timeout.total == 600.0
    assert chat.retry.backoff.initial == 0.05
    assert chat.retry.on[0] is ErrorKind.BACKEND_UNREACHABLE
    assert chat.concurrency.mode == "adaptive"


def test_the_contracts_values_are_the_defaults():
    contract = load_text(SAMPLE, environ={"TEAM_A_KEY": "s3cret-of-team-a"})
    smallest = Config.model_validate(SMALLEST)
    written = contract.policies["chat"].model_copy(update={"extends": None})
    assert smallest.policies["default"] == written
    assert smallest.server == contract.server
    assert smallest.observability == contract.observability
    assert smallest.state == contract.state


def test_secrets_show_in_no_repr():
    config = load_text(
        SAMPLE.replace("redis: null", 'redis: "redis://:hunter2@cache:6379"')
        .replace("key: null}", "key: hunter2}")
        .replace("kind: diffusers}", "kind: diffusers, api_key: hunter2, headers: {Authorization: hunter2}}")
        .replace("slack://...", "slack://hunter2"),
        environ={"TEAM_A_KEY": "hunter2-a"},
    )
    assert "hunter2" not in repr(config)
    assert "hunter2" not in str(config)
    assert config.backends["sdxl"].headers["Authorization"].get_secret_value() == "hunter2"


def test_a_key_and_its_digest_are_the_same_key():
    digest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    keys = config_with(auth={"keys": [{"name": "a", "key": "hello"}, {"name": "b", "key": digest}]}).auth.keys
    assert keys[0].digest == keys[1].digest == bytes.fromhex(digest.removeprefix("sha256:"))


@pytest.mark.parametrize(
    ("written", "tiers"),
    [
        (["b"], [[("b", None)]]),
        ([["b", "c"]], [[("b", None), ("c", None)]]),
        ([{"backend": "b", "model": "x"}], [[("b", "x")]]),
        ([["b", {"backend": "c", "model": "x"}], "d"], [[("b", None), ("c", "x")], [("d", None)]]),
    ],
)
def test_fallback_entries_may_be_names_lists_or_mappings(written, tiers):
    config = config_with(routes=[{"model": "m", "backends": ["a"], "fallback": written}])
    assert [[(target.backend, target.model) for target in tier] for tier in config.routes[0].tiers[1:]] == tiers


@pytest.mark.parametrize(
    ("route", "name", "models"),
    [
        ({"model": "m"}, "m", ("m",)),
        ({"model": ["x*", "y"]}, "x*", ("x*", "y")),
        ({"model": "m", "name": "chat"}, "chat", ("m",)),
    ],
)
def test_a_route_is_named_for_its_first_pattern(route, name, models):
    config = config_with(routes=[{**route, "backends": ["a"]}])
    assert (config.routes[0].name, config.routes[0].model) == (name, models)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://h:1", "http://h:1"),
        ("http://h:1/", "http://h:1"),
        ("http://h:1/v1", "http://h:1"),
        ("http://h:1/v1/", "http://h:1"),
        ("https://h/team/llama/v1", "https://h/team/llama"),
        ("https://h/v1/models-of/a", "https://h/v1/models-of/a"),
        ("http://[::1]:8000/v1", "http://[::1]:8000"),
    ],
)
def test_backend_urls_lose_a_trailing_slash_and_v1(url, base):
    assert config_with(backends={"a": {"url": url}}).backends["a"].url == base


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h",
        "h:8000",
        "http://",
        "http://u:p@h",
        "http://h?x=1",
        "http://h?",
        "http://h#f",
        "http://h/a b",
        "http://h\n",
        "http://h:99999",
        "http://h:0",
        "http://h/../x",
        "http://[::1",
        "",
        5,
    ],
)
def test_other_backend_urls_are_refused(url):
    with pytest.raises(ValidationError):
        config_with(backends={"a": {"url": url}})


@pytest.mark.parametrize("listen", ["[::1]:80", "localhost:0", "0.0.0.0:65535", "gateway.internal:8080"])
def test_listen_takes_host_and_port(listen):
    assert config_with(server={"listen": listen}).server.listen == listen


@pytest.mark.parametrize("listen", [8080, ":8080", "h", "h:", "h:http", "h:65536", "::1:80", "[::zz]:80", "h:٣", None])
def test_other_addresses_are_refused(listen):
    with pytest.raises(ValidationError):
        config_with(server={"listen": listen})


@pytest.mark.parametrize(
    ("listen", "admin", "data_loopback", "operators_loopback"),
    [
        ("127.0.0.1:1", None, True, True),
        ("localhost:1", "0.0.0.0:2", True, False),
        ("0.0.0.0:1", "[::1]:2", False, True),
        ("10.0.0.1:1", None, False, False),
    ],
)
def test_loopback_listeners_are_known(listen, admin, data_loopback, operators_loopback):
    server = config_with(server={"listen": listen, "admin": {"listen": admin}}).server
    assert (server.on_loopback, server.operators_on_loopback) == (data_loopback, operators_loopback)


@pytest.mark.parametrize(
    "settings",
    [
        {"retry": {"attempts": 0}},
        {"retry": {"attempts": 11}},
        {"retry": {"attempts": True}},
        {"retry": {"attempts": "3"}},
        {"retry": {"on": ["rate_limited"]}},
        {"retry": {"on": ["nonsense"]}},
        {"retry": {"budget": {"ratio": 1.1}}},
        {"retry": {"backoff": {"factor": 0.5}}},
        {"retry": {"backoff": {"initial": "3s", "max": "2s"}}},
        {"timeout": {"total": "0s"}},
        {"circuit_breaker": {"failure_ratio": 0}},
        {"circuit_breaker": {"open_for": "10m"}},
        {"hedge": {"after": "p99"}},
        {"hedge": {"after": "0s"}},
        {"stream": {"resume": "yes"}},
        {"concurrency": {"mode": "fixed"}},
        {"concurrency": {"mode": "fixed", "limit": 3, "min": 1}},
        {"concurrency": {"limit": 3}},
        {"concurrency": {"min": 9, "max": 8}},
        {"concurrency": 0},
        {"oom": {"shrink": 1}},
        {"degrade": {"reduced": {"above": 0.95}}},
        {"degrade": {"minimal": {"quality": 0.9}}},
        {"fault": {"status": 200}},
        {"limits": {"max_tokens": float("inf")}},
        {"nonsense": 1},
    ],
)
def test_senseless_policies_are_refused(settings):
    with pytest.raises(ValidationError):
        policy(**settings)


@pytest.mark.parametrize(
    "server",
    [
        {"max_body": "2GiB"},
        {"listen": "h:1", "admin": {"listen": "h:1"}},
        {"trusted_proxies": ["10.0.0.5/8"]},
        {"trusted_proxies": ["proxy.internal"]},
        {"workers": 0},
        {"tls": {"cert": "c.pem"}},
        {"admin": {"key": ""}},
        {"admin": {"key": "sha256:abc"}},
    ],
)
def test_senseless_servers_are_refused(server):
    with pytest.raises(ValidationError):
        config_with(server=server)


@pytest.mark.parametrize(
    ("after", "value"), [(None, None), ("p95", "p95"), ("200ms", 0.2), (1, 1.0)], ids=["off", "p95", "text", "number"]
)
def test_hedging_waits_a_duration_or_a_percentile(after, value):
    assert policy(hedge={"after": after}).hedge.after == value


def test_policies_merge_section_by_section_along_their_ancestors():
    config = config_with(
        policies={
            "default": {"retry": {"attempts": 5, "on": ["model_loading"]}},
            "chat": {"retry": {"backoff": {"max": "1s"}}, "timeout": {"total": "1m"}},
            "slow": {"extends": "chat", "retry": {"on": ["out_of_memory"]}, "timeout": None},
        }
    )
    slow = config.policies["slow"]
    assert (slow.extends, config.policies["chat"].extends, config.policies["default"].extends) == (
        "chat",
        "default",
        None,
    )
    assert slow.retry.attempts == 5
    assert slow.retry.backoff.max == 1.0
    assert slow.retry.backoff.initial == 0.05
    assert slow.retry.on == (ErrorKind.OUT_OF_MEMORY,)
    assert slow.timeout.total == 60.0


def test_another_concurrency_mode_replaces_the_inherited_one():
    config = config_with(
        policies={
            "default": {"concurrency": {"min": 2, "max": 8}},
            "fixed": {"concurrency": {"mode": "fixed", "limit": 3}},
            "higher": {"extends": "fixed", "concurrency": {"limit": 5}},
            "back": {"extends": "higher", "concurrency": {"mode": "adaptive"}},
        }
    )
    limits = {name: policy.concurrency for name, policy in config.policies.items()}
    assert limits["default"].max == 8
    assert limits["higher"].limit == 5
    assert (limits["back"].min, limits["back"].max) == (4, 512)


def test_null_turns_off_what_can_be_off_and_else_changes_nothing():
    config = config_with(
        policies={
            "default": {"circuit_breaker": {"slow_call": {"over": "5s"}}, "fault": {"abort": 0.5}},
            "calm": {"circuit_breaker": {"slow_call": None}, "fault": None, "retry": None},
        }
    )
    assert config.policies["calm"].circuit_breaker.slow_call is None
    assert config.policies["calm"].fault is None
    assert config.policies["calm"].retry.attempts == 3
    assert config.policies["default"].fault is not None


@pytest.mark.parametrize(
    "policies",
    [
        {"a": {"extends": "b"}, "b": {"extends": "a"}},
        {"a": {"extends": "a"}},
        {"a": {"extends": "nobody"}},
        {"default": {"extends": "a"}, "a": {}},
        {"a": {"extends": ["b"]}},
        {"a": 5},
        5,
    ],
)
def test_faulty_inheritance_is_refused(policies):
    with pytest.raises(ValidationError):
        config_with(policies=policies)


def test_configurations_are_frozen():
    config = Config.model_validate(SMALLEST)
    with pytest.raises(ValidationError):
        config.server.workers = 2


@pytest.mark.parametrize("header", ["Host", "Content-Length", "transfer-encoding", "X Y", "X\r\nY", ""])
def test_headers_that_frame_messages_are_refused(header):
    with pytest.raises(ValidationError):
        config_with(backends={"a": {"url": "http://a", "headers": {header: "x"}}})


def test_header_values_cannot_smuggle_lines():
    with pytest.raises(ValidationError):
        config_with(backends={"a": {"url": "http://a", "headers": {"X-A": "x\r\nX-B: y"}}})
