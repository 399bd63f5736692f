import pytest

from gateway.config.loader import load
from gateway.config.rules import covers

BACKENDS = """\
backends:
  a: {url: "http://a", kind: vllm, context_length: 1000}
  b: {url: "http://b", kind: sglang, context_length: 1000}
  small: {url: "http://s", kind: vllm, context_length: 500}
  draw: {url: "http://d", kind: diffusers}
  any: {url: "http://o", kind: openai}
"""
SOUND = BACKENDS + "routes:\n  - {model: '*', backends: [a, b]}\n  - {model: z, backends: [small]}\n"


def findings(text):
    """Severity, path and message of all problems, but for backends that no route uses."""
    loaded = load(text, "g.yaml", {})
    return [
        (problem.severity, problem.path, problem.message)
        for problem in loaded.problems
        if "no route uses this backend" not in problem.message
    ]


def with_routes(*routes):
    return BACKENDS + "routes:\n" + "".join(f"  - {{{route}}}\n" for route in routes)


ONE = "model: m, backends: [a, b]"


@pytest.mark.parametrize(
    ("text", "severity", "path", "message"),
    [
        (with_routes("model: m, backends: [a, a]"), "error", "routes[0].backends[1]", "a is in this route already"),
        (with_routes("model: m, backends: [a], fallback: [b, [any, a]]"), "error", "routes[0].fallback[1][1]",
         "a is in this route already, with the same model"),
        (with_routes("model: m, backends: [a], fallback: [draw]"), "error", "routes[0].fallback[0]",
         "draw (diffusers) makes images, where the route's others make text"),
        (with_routes("model: m, backends: [draw], fallback: [any, a]"), "error", "routes[0].fallback[1]",
         "a (vllm) makes text, where the route's others make images"),
        (with_routes("model: m, backends: [any, draw, a]"), "error", "routes[0].backends[2]",
         "a (vllm) makes text, where the route's others make images"),
        (with_routes("model: m, backends: [a], fallback: [small]"), "warning", "routes[0].fallback[0]",
         "small takes 500 tokens where the primary tier takes 1000: longer requests have no fallback here"),
        (with_routes("model: m, backends: [any], fallback: [draw], static_answer: {text: t}"), "error",
         "routes[0].static_answer", "is a text, and this route makes images"),
        (with_routes(ONE, "model: m, name: n, backends: [a]"), "warning", "routes[1].model",
         "this route is never reached: route 'm' takes 'm' first"),
        (with_routes("model: 'm*', backends: [a]", "model: [x, mm], backends: [a]"), "warning", "routes[1].model[1]",
         "'mm' is never reached: route 'm*' takes 'm*' first"),
        (with_routes(ONE, "model: n, name: m, backends: [a]"), "error", "routes[1].name",
         "the name 'm' is taken by an earlier route"),
        (with_routes(ONE) + "server: {listen: '0.0.0.0:80', admin: {key: k}}", "warning", "server.listen",
         "no API keys: whoever reaches 0.0.0.0:80 may use every model"),
        (with_routes(ONE) + "server: {admin: {listen: '10.0.0.1:80'}}", "warning", "server.admin.listen",
         "no admin key: status, errors and the admin page will answer peers on the loopback interface only"),
        (with_routes(ONE) + "auth: {keys: [{name: x, key: k}, {name: x, key: l}]}", "error", "auth.keys[1].name",
         "the name 'x' is taken by an earlier key"),
        (with_routes(ONE) + "auth: {keys: [{name: x, key: k}, {name: y, key: k}]}", "error", "auth.keys[1].key",
         "the key 'x' is the same"),
        (with_routes(ONE) + "auth: {keys: [{name: x, key: k, concurrency: 2}]}\nserver: {workers: 4}", "warning",
         "server.workers", "each worker counts keys' limits by itself, so 4 times as much is let in"),
        (with_routes(ONE) + "policies: {p: {}}", "warning", "policies.p", "no route uses this policy"),
        (with_routes(ONE) + "policies: {default: {timeout: {first_token: 1h}}}", "warning",
         "policies.default.timeout.first_token", "1h never passes: timeout.total ends the request after 10m"),
        (with_routes(ONE) + "policies: {default: {hedge: {after: 40s}}}", "warning", "policies.default.hedge.after",
         "40s never passes: timeout.first_token ends the attempt after 30s"),
        (with_routes(ONE) + "policies: {default: {fault: {abort: 0.1}}}", "warning", "policies.default.fault",
         "faults are injected on purpose into the requests of this policy"),
        (with_routes(ONE).replace("kind: vllm, con", "tls: {verify: false}, con", 1), "warning", "backends.a.tls",
         "has no effect: the url is http"),
        (with_routes(ONE).replace("kind: vllm, con", "api_key: k, headers: {authorization: x}, con", 1), "warning",
         "backends.a.headers", "Authorization here replaces the one from api_key"),
    ],
)  # fmt: skip
def test_each_rule_finds_its_fault_and_nothing_else(text, severity, path, message):
    ((found_severity, found_path, found_message),) = findings(text)
    assert (found_severity, found_path) == (severity, path)
    assert found_message.startswith(message)


@pytest.mark.parametrize(
    "text",
    [
        with_routes(ONE),
        with_routes("model: m, backends: [a], fallback: [{backend: a, model: other}]"),
        with_routes("model: m, backends: [any], fallback: [draw]"),
        with_routes("model: m, backends: [any], static_answer: {text: t}"),
        with_routes("model: m, backends: [any], fallback: [a]"),
        with_routes("model: m, backends: [small], fallback: [a]"),
        with_routes("model: m, backends: [a]", "model: 'm*', backends: [b]"),
        with_routes(ONE) + "policies: {default: {timeout: {total: 1s}}}",
        with_routes(ONE) + "server: {workers: 4}\nauth: {keys: [{name: x, key: k}]}",
        with_routes(ONE + ", policy: p") + "policies: {p: {extends: q}, q: {}}",
    ],
)
def test_sound_configurations_have_no_findings(text):
    assert findings(text) == []


def test_a_backend_that_no_route_uses_is_told():
    loaded = load(with_routes("model: m, backends: [a, b, small, any]"), "g.yaml", {})
    assert [str(problem) for problem in loaded.problems] == ["g.yaml:5:3: backends.draw: no route uses this backend"]
    assert loaded.config is not None


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        ("*", "any[thing]?", True),
        ("a*", "a", True),
        ("a*", "a?c*", True),
        ("a*", "b*", False),
        ("a?", "ab", True),
        ("a?", "a*", False),
        ("*a*", "[ab]", False),
        ("[ab]", "[ab]", True),
        ("a", "A", False),
        ("llama-3.1-8b*", "llama-3.1-8b-instruct", True),
    ],
)
def test_a_pattern_covers_another_only_when_it_surely_does(wide, narrow, covered):
    assert covers(wide, narrow) is covered
