import pytest

from gateway.config.diff import after_restart, diff
from gateway.config.loader import load_text

BASE = """\
auth: {keys: [{name: x, key: first-secret}]}
backends: {a: {url: "http://a", api_key: one-secret}, b: {url: "http://b"}}
routes: [{model: m, backends: [a]}, {model: n, backends: [b]}]
policies: {chat: {extends: default}}
"""


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ("extends: default", "extends: default", []),
        ("extends: default", "retry: {attempts: 5}", ["policies.chat.retry.attempts: 3 -> 5"]),
        ("extends: default", "timeout: {total: 90s}", ["policies.chat.timeout.total: 10m -> 90s"]),
        ("extends: default", "hedge: {after: p95}", ["policies.chat.hedge.after: null -> p95"]),
        ("extends: default", "hedge: {after: 200ms}", ["policies.chat.hedge.after: null -> 200ms"]),
        ("extends: default", "stream: {resume: false}", ["policies.chat.stream.resume: true -> false"]),
        (
            "extends: default",
            "concurrency: {mode: fixed, limit: 4}",
            ["policies.chat.concurrency: {mode: adaptive, min: 4, max: 512} -> {mode: fixed, limit: 4}"],
        ),
        (
            "extends: default",
            "fault: {delay: 2s}",
            ["policies.chat.fault: null -> {abort: 0, status: 503, delay: 2s, share: 1}"],
        ),
        ("one-secret", "two-secret", ["backends.a.api_key: changed (secret)"]),
        ("first-secret", "second-secret", ["auth.keys[x].key: changed (secret)"]),
        (", api_key: one-secret", "", ["backends.a.api_key: (secret) -> null"]),
        ("b: {url: \"http://b\"}", "c: {url: \"http://b\"}, b: {url: \"http://b\"}", ["backends.c: added"]),
        (", {model: n, backends: [b]}", "", ["routes[n]: removed"]),
        (
            "{model: m, backends: [a]}, {model: n, backends: [b]}",
            "{model: n, backends: [b]}, {model: m, backends: [a]}",
            ["routes: order m, n -> n, m"],
        ),
        (
            "model: m, backends: [a]",
            "model: m, backends: [a], fallback: [b]",
            ["routes[m].fallback: [] -> [[{backend: b, model: null}]]"],
        ),
        ("auth:", "server: {max_body: 1MiB}\nauth:", ["server.max_body: 20MiB -> 1MiB"]),
        ("{keys: [{name: x, key: first-secret}]}", "{}", ["auth.keys[x]: removed"]),
    ],
)  # fmt: skip
def test_changes_are_told_one_a_line_and_secrets_are_hidden(old, new, lines):
    assert old in BASE
    assert diff(load_text(BASE), load_text(BASE.replace(old, new))) == lines


@pytest.mark.parametrize(
    ("line", "waits"),
    [
        ("server.listen: 127.0.0.1:8080 -> 127.0.0.1:8081", True),
        ("server.admin.listen: null -> 127.0.0.1:9090", True),
        ("observability.log.level: info -> debug", True),
        ("server.admin.key: changed (secret)", False),
        ("server.drain: 30s -> 60s", False),
        ("server.drain_delay: 1s -> 5s", False),
        ("server.trusted_proxies: [] -> [10.0.0.0/8]", False),
        ("server.watch: true -> false", False),
        ("policies.chat.retry.attempts: 3 -> 5", False),
        ("alerts.targets: changed (secret)", False),
    ],
)
def test_what_belongs_to_the_process_waits_for_its_restart(line: str, waits: bool) -> None:
    assert after_restart([line]) == ([line] if waits else [])
