import string

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import ConfigError, load_config, load_text
from gateway.config.jsonschema import raw_schema

GOOD = """\
backends:
  a: {url: "http://h:1"}
routes:
  - {model: m, backends: [a]}
"""


def problems(text, environ=None):
    with pytest.raises(ConfigError) as caught:
        load_text(text, "g.yaml", environ or {})
    return caught.value.problems


def lines(text, environ=None):
    return [str(problem) for problem in problems(text, environ)]


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ("server: {lissen: x}", "g.yaml:5:10: server.lissen: unknown key (did you mean listen?)"),
        ("sever: {}", "g.yaml:5:1: sever: unknown key (did you mean server?)"),
        ("server:\n  workers: two", "g.yaml:6:12: server.workers: must be a whole number, not a string"),
        (
            "server:\n  workers: '2'",
            "g.yaml:6:12: server.workers: must be a whole number, not a string (leave out the quotes)",
        ),
        ("server: {workers: 0}", "g.yaml:5:19: server.workers: must be at least 1, not 0"),
        ("server: {workers: true}", "g.yaml:5:19: server.workers: must be a whole number, not true or false"),
        ("server: [1]", "g.yaml:5:1: server: must be a mapping (key: value), not a list"),
        ("server: {max_body: 3mb}", "g.yaml:5:20: server.max_body: '3mb' has an unknown unit 'mb': did you mean MB?"),
        ("server: {max_body: 1GiB}", "g.yaml:5:1: server.max_buffered: must be at least max_body, "),
        (
            "server: {trusted_proxies: [10.1.0.0/8]}",
            "g.yaml:5:28: server.trusted_proxies[0]: has host bits set (did you mean 10.0.0.0/8?)",
        ),
        ("auth: {keys: [{name: a}]}", "g.yaml:5:15: auth.keys[0].key: is required"),
        (
            "auth: {keys: [{name: a, key: 0042}]}",
            "g.yaml:5:30: auth.keys[0].key: must be a string, not a number (put it in quotes)",
        ),
        (
            "policies: {chat: {balance: least-load}}",
            "g.yaml:5:28: policies.chat.balance: must be one of round_robin, random, p2c, least_load, prefix, session, "
            "not 'least-load' (did you mean least_load?)",
        ),
        (
            "policies: {chat: {retry: {on: [model_overload]}}}",
            "g.yaml:5:32: policies.chat.retry.on[0]: there is no error type 'model_overload' "
            "(did you mean model_overloaded?)",
        ),
        (
            "policies: {chat: {concurrency: {limit: 4}}}",
            "g.yaml:5:33: policies.chat.concurrency.limit: unknown key (limit goes with mode: fixed)",
        ),
        (
            "policies: {chat: {timeout: {total: 5 days}}}",
            "g.yaml:5:36: policies.chat.timeout.total: '5 days' has an unknown unit 'days': use ms, s, m or h",
        ),
        (
            "policies: {chat: {retry: {backoff: {initial: 3s}}}}",
            "g.yaml:5:27: policies.chat.retry.backoff.max: must be at least backoff.initial",
        ),
        (
            "policies: {chat: {extends: caht}, caat: {}}",
            "g.yaml:5:28: policies.chat.extends: there is no policy 'caht' to extend (did you mean chat?)",
        ),
        (
            "policies: {a: {extends: b}, b: {extends: a}}",
            "g.yaml:5:42: policies.b.extends: policies extend each other in a circle: a -> b -> a",
        ),
        (
            "policies: {default: {extends: a}, a: {}}",
            "g.yaml:5:31: policies.default.extends: default can't extend another policy: every policy builds on it",
        ),
        ("policies: {'a b': {}}", "g.yaml:5:12: policies['a b']: is not a name (names are "),
        ("state: {redis: 'http://x'}", "g.yaml:5:16: state.redis: must be a redis://, rediss:// or unix:// URL"),
        ("state: {redis: 'redis://u:pw@x:y'}", "g.yaml:5:16: state.redis: the URL is malformed (such as redis://"),
        ("state: {redis: ${X}}", "g.yaml:5:17: expected ',' or '}', but got '{', while parsing a flow mapping "
         '(inside {...} and [...] put ${VAR} in quotes: "${VAR}")'),
        ("state:\n  redis: ${X}", "g.yaml:6:10: state.redis: the environment variable X is not set "
         "(set it, or write ${X:-default})"),
        ("state:\n  redis: ${X", "g.yaml:6:10: state.redis: '${' is not closed (write ${VAR} or "),
        ("state:\n  redis: ${X?no}", "g.yaml:6:10: state.redis: malformed substitution (write ${VAR} or "),
        ("server: {workers: 2, workers: 3}", "g.yaml:5:22: server.workers: the key is there twice (first in line 5)"),
        ("server: !!python/object:os.x {}", "g.yaml:5:9: server: tags are not supported (leave the !... out)"),
        ("? [a]\n: b", "g.yaml:5:3: a key must be a string"),
        ("server: {<<: 5}", "g.yaml:5:14: server['<<']: a merge key needs a mapping or a list of them (such as "),
        ('server: {listen: "\\ud800"}', "g.yaml:5:18: server.listen: is not valid Unicode text"),
        ("server:\n\tworkers: 2", "g.yaml:6:1: found character '\\t' that cannot start any token, while scanning for "
         "the next token (YAML is indented with spaces, not tabs)"),
        ("server: *nope", "g.yaml:5:9: found undefined alias 'nope'"),
        ("x: &x [*x]", "g.yaml:5:4: the anchor contains itself"),
        ("---\na: 1", "g.yaml:5:1: the file holds more than one YAML document"),
        ("x: \x07", "g.yaml:5:4: a character that YAML does not allow (remove it, or escape it)"),
    ],
)  # fmt: skip
def test_each_fault_is_told_with_its_place_and_a_hint(added, expected):
    (line,) = lines(GOOD + added)
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "g.yaml: the file is empty (backends and routes are required)"),
        ("# only a comment", "g.yaml: the file is empty (backends and routes are required)"),
        ("null", "g.yaml: the file is empty (backends and routes are required)"),
        ("- a", "g.yaml:1:1: the file must hold a mapping (server:, backends:, routes:, ...)"),
        ("a" * (2**20 + 1), "g.yaml: the file is larger than 1 MiB"),
        ("[" * 100, "g.yaml:1:41: the file has more than 40 levels"),
        ("[" + "1," * 200_000 + "]", "g.yaml:1:400000: the file has more than 200000 values"),
        ('a: "\\UFFFFFFFF"', "g.yaml: the file holds an escape or number that YAML can't"),
        ("server: {}", "g.yaml:1:1: backends: is required"),
    ],
    ids=["empty", "comment", "null", "list", "large", "deep", "many", "escape", "missing"],
)
def test_files_that_are_no_configuration_are_refused(text, expected):
    assert lines(text)[0] == expected


def test_all_problems_are_reported_in_the_files_order():
    text = """\
server: {workers: -1}
backends:
  a: {url: "http://u:pw@h", kind: vlm}
routes:
  - {model: m, backends: [b], fallback: [c, [a, d], {backend: e}], policy: nope}
policies:
  chat: {timeout: {total: "${GONE}"}, retry: {attempts: 99}}
"""
    found = problems(text)
    assert [(problem.line, problem.path) for problem in found] == [
        (1, "server.workers"),
        (3, "backends.a.url"),
        (3, "backends.a.kind"),
        (5, "routes[0].backends[0]"),
        (5, "routes[0].fallback[0]"),
        (5, "routes[0].fallback[1][1]"),
        (5, "routes[0].fallback[2].backend"),
        (5, "routes[0].policy"),
        (7, "policies.chat.timeout.total"),
        (7, "policies.chat.retry.attempts"),
    ]
    assert {problem.severity for problem in found} == {"error"}
    assert "pw" not in "".join(map(str, found)).replace("http", "")


def test_an_unknown_name_hides_no_other_problem():
    text = GOOD.replace("[a]", "[b, a, a]") + "auth: {keys: [{name: x, key: k}, {name: y, key: k}]}"
    assert [problem.path for problem in problems(text)] == [
        "routes[0].backends[0]",
        "routes[0].backends[2]",
        "auth.keys[1].key",
    ]


def test_an_inherited_fault_is_told_once_where_it_is_written():
    text = GOOD + "policies:\n  default: {retry: {attempts: 99}}\n  a: {}\n  b: {extends: a}\n"
    (problem,) = problems(text)
    assert (problem.line, problem.path) == (6, "policies.default.retry.attempts")


def test_unknown_names_are_told_even_when_their_section_is_missing():
    assert "routes[0].policy: there is no policy 'x'" in lines("routes: [{model: m, backends: [a], policy: x}]")[1]


@pytest.mark.parametrize(
    ("written", "environ", "workers"),
    [
        ("${N:-3}", {}, 3),
        ("${N:-3}", {"N": "5"}, 5),
        ("${N:-3}", {"N": ""}, 3),
        ('"${N}"', {"N": "5"}, 5),
        ("'${N}'", {"N": "5"}, 5),
    ],
)
def test_a_whole_substitution_is_typed_by_its_field(written, environ, workers):
    config = load_text(f"server:\n  workers: {written}\n{GOOD}", environ=environ)
    assert config.server.workers == workers


def test_substitutions_type_flags_numbers_durations_and_null():
    text = GOOD + (
        "policies:\n  default:\n    stream:\n      resume: ${R}\n    retry:\n      budget: {ratio: '${Q}'}\n"
        "    timeout: {total: '${T}'}\n    concurrency: {mode: '${M}', limit: '${L}'}\n    balance: ${B}\n"
        "state:\n  redis: ${REDIS:-}\n"
    )
    environ = {"R": "false", "Q": "0.5", "T": "90", "M": "fixed", "L": "7", "B": "p2c"}
    config = load_text(text, environ=environ)
    policy = config.policies["default"]
    assert policy.stream.resume is False
    assert policy.retry.budget.ratio == 0.5
    assert policy.timeout.total == 90.0
    assert policy.concurrency.limit == 7
    assert policy.balance == "p2c"
    assert config.state.redis is None


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_secret_of_digits_stays_text(quote):
    text = f"server:\n  admin:\n    key: {quote}${{K}}{quote}\n{GOOD}"
    assert load_text(text, environ={"K": "0042"}).server.admin.key.get_secret_value() == "0042"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("${HOST}.${ZONE:-local}:80", "llm.local:80"),
        ("$${HOST}$$", "${HOST}$"),
        ("a$b", "a$b"),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY}y", "y"),
    ],
)
def test_substitution_anywhere_in_a_string(written, value):
    environ = {"HOST": "llm", "EMPTY": ""}
    text = GOOD.replace("model: m", f'model: "{written}"')
    assert load_text(text, environ=environ).routes[0].model == (value,)


def test_a_value_from_the_environment_is_not_substituted_again():
    text = GOOD.replace("model: m", 'model: "${A}"')
    assert load_text(text, environ={"A": "${B}"}).routes[0].model == ("${B}",)


def test_a_value_of_bytes_that_are_not_utf8_is_refused():
    (problem,) = problems(GOOD.replace("model: m", 'model: "${A}"'), {"A": b"\xff".decode(errors="surrogateescape")})
    assert problem.message == "is not valid Unicode text"


def test_scalars_follow_yaml_1_2():
    text = GOOD.replace("model: m", "model: [no, on, 1:30, 2026-01-01, =]")
    assert load_text(text).routes[0].model == ("no", "on", "1:30", "2026-01-01", "=")


def test_anchors_aliases_and_merge_keys_work():
    text = """\
backends:
  a: &a {url: "http://h:1", kind: vllm, weight: 3, health: &h {interval: 9s}}
  b: {<<: *a, url: "http://h:2"}
  c: {<<: [{weight: 7}, *a], url: "http://h:3", health: *h}
routes:
  - {model: m, backends: [a, b, c]}
"""
    backends = load_text(text).backends
    assert (backends["b"].url, backends["b"].kind, backends["b"].weight) == ("http://h:2", "vllm", 3)
    assert backends["c"].weight == 7
    assert backends["c"].health.interval == 9.0


def test_an_alias_bomb_is_refused_quickly():
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10)]
    (line,) = lines("\n".join(["l0: &l0 [x, x, x, x, x, x, x, x, x, x]", *levels]))
    assert "with its aliases the file has more than 200000 values" in line


def test_aliases_do_not_nest_deeper_than_written_text_may():
    levels = [f"l{n}: &l{n} {'[' * 30}*l{n - 1}{']' * 30}" for n in range(1, 50)]
    (line,) = lines("\n".join(["l0: &l0 x", *levels]))
    assert "with its aliases the file has more than 40 levels" in line


def test_empty_sections_are_as_if_left_out():
    empty = "".join(f"{name}:\n" for name in ("server", "auth", "policies", "alerts", "observability", "state"))
    assert load_text(GOOD + empty) == load_text(GOOD)


def test_a_file_is_read_with_its_name_in_problems(tmp_path):
    path = tmp_path / "gateway.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_config(path, {}).routes[0].name == "m"
    path.write_text("backends: 5\n")
    with pytest.raises(ConfigError, match=r"gateway\.yaml:1:11: backends: must be a mapping"):
        load_config(path, {})


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a: 1\nb\xc3\xbc: \xff", ":2:5: the file is not UTF-8 (save it as UTF-8)"),
        (b"a" * (2**20 + 1), ": the file is larger than 1 MiB"),
    ],
)
def test_unreadable_bytes_are_told(tmp_path, data, expected):
    path = tmp_path / "g.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    assert str(caught.value) == f"{path}{expected}"


@pytest.mark.parametrize("name", ["missing.yaml", "", "nul\0byte"])
def test_unreadable_files_are_told(tmp_path, name):
    with pytest.raises(ConfigError, match="can't be read"):
        load_config(f"{tmp_path}/{name}", {})


WORDS = [
    *"{}[],:-&*!|>'\"%@#?~$\n ",
    *("  ", "\n  ", "\n    ", "- ", ": ", "<<: ", "&a ", "*a", "${A}", "${A:-1}", "$$", "null", "true", "1", "1e9"),
    *("server", "backends", "routes", "policies", "default", "extends", "model", "url", "kind", "vllm", "fallback"),
    *("http://h:1", "timeout", "total", "5s", "retry", "on", "concurrency", "mode", "fixed", "auth", "keys", "a", "b"),
]


def loads_or_tells(text, environ):
    """Any other exception fails the test that calls this."""
    told = None
    try:
        load_text(text, "g.yaml", environ)
    except ConfigError as error:
        told = error.problems
    if told is not None:
        assert [problem.message for problem in told if problem.message]
        "".join(map(str, told)).encode()


@given(st.text(), st.text())
def test_any_text_loads_or_tells_problems(text, value):
    loads_or_tells(text, {"A": value})


@given(st.lists(st.sampled_from(WORDS), max_size=60).map("".join), st.text(max_size=10))
def test_any_yaml_like_text_loads_or_tells_problems(text, value):
    loads_or_tells(text, {"A": value})


KEYS = {field for section in raw_schema()["$defs"].values() for field in section.get("properties", ())}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(string.printable, max_size=8)
SOUND = st.sampled_from(["a", "default", "chat", "5s", "vllm", "http://h:1"])
VALUES = st.recursive(
    SCALARS | SOUND,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(KEYS | {"a", "chat"})), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "server": VALUES,
            "auth": VALUES,
            "backends": st.dictionaries(st.sampled_from("ab"), VALUES, max_size=2) | VALUES,
            "routes": st.lists(VALUES, max_size=2) | VALUES,
            "policies": st.dictionaries(st.sampled_from(["default", "chat", "a"]), VALUES, max_size=3) | VALUES,
        },
    )
)
def test_any_structure_loads_or_tells_problems(data):
    loads_or_tells(yaml.safe_dump(data), {})
