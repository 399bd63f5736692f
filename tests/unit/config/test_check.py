import pytest

from gateway.config.check import WorstCase, check_file, render, worst_case
from gateway.config.loader import load_text

BASE = """\
backends: {a: {url: "http://a"}, b: {url: "http://b"}, c: {url: "http://c"}}
routes: [{model: m, backends: [a], fallback: FALLBACK}]
policies: {default: POLICY}
"""


TIMES = "timeout: {connect: 1s, first_token: 9s, total: 1m}, admission: {max_wait: 5s}"


@pytest.mark.parametrize(
    ("retry", "fallback", "attempts", "seconds"),
    [
        ("{attempts: 1}", "[]", 1, 5 + 10),
        ("{attempts: 3, backoff: {initial: 1s, factor: 2, max: 10s}}", "[]", 3, 5 + 30 + 1 + 2),
        ("{attempts: 4, backoff: {initial: 1s, factor: 10, max: 3s}}", "[]", 4, 5 + 40 + 1 + 3 + 3),
        ("{attempts: 1, backoff: {initial: 0s}}", "[b, c]", 3, 5 + 30),
        ("{attempts: 4, backoff: {initial: 0s}}", "[b, c]", 6, 60),
        ("{attempts: 10}", "[b, c]", 12, 60),
    ],
)
def test_the_worst_case_counts_queue_attempts_and_waits_up_to_the_deadline(retry, fallback, attempts, seconds):
    policy = f"{{{TIMES}, retry: {retry}}}"
    config = load_text(BASE.replace("POLICY", policy).replace("FALLBACK", fallback))
    assert worst_case(config, config.routes[0]) == WorstCase(attempts, seconds)


def test_a_sound_file_is_reported_with_warnings_and_worst_cases(tmp_path):
    path = tmp_path / "g.yaml"
    path.write_text(BASE.replace("POLICY", "{}").replace("FALLBACK", "[b]"))
    report = check_file(path, {})
    assert report.problems == []
    assert [problem.path for problem in report.warnings] == ["backends.c"]
    assert report.worst_cases["m"].attempts == 4
    assert render(report).splitlines() == [
        f"warning: {path}:1:56: backends.c: no route uses this backend",
        f"{path}: 3 backends, 1 route; no errors, 1 warning",
        "",
        "at worst:",
        "route  tiers  attempts  resumes  first token or error  whole answer",
        "m      2      4         2        138.3s                10m",
    ]


def test_a_faulty_file_is_reported_with_its_errors(tmp_path):
    path = tmp_path / "g.yaml"
    path.write_text("backends: {a: {}}\nroutes: [{model: m, backends: [a]}]\n")
    report = check_file(path, {})
    assert report.worst_cases == {}
    assert render(report).splitlines() == [
        f"error: {path}:1:12: backends.a.url: is required",
        f"{path}: 1 error, no warnings",
    ]


def test_a_missing_file_is_a_problem_like_any_other(tmp_path):
    report = check_file(tmp_path / "none.yaml", {})
    assert [problem.message for problem in report.problems] == ["can't be read: No such file or directory"]
