from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.observe.logs import MAX_LINE, Logs, RequestRecord, configure

SECRET = "sk-proj-0123456789abcdef"


class Sink:
    """A pipe that the log is written to."""

    def __init__(self) -> None:
        self._read, self.fd = os.pipe()
        os.set_blocking(self._read, False)
        self.logs: Logs | None = None

    def text(self) -> str:
        assert self.logs is not None
        self.logs.flush()
        try:
            return os.read(self._read, 1 << 20).decode("utf-8")
        except BlockingIOError:
            return ""

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().split("\n") if line]

    def close(self) -> None:
        os.close(self._read)  # first, so that a writer that is stuck gives up
        if self.logs is not None:
            self.logs.close()
        os.close(self.fd)


Open = Callable[..., tuple[Logs, Sink]]


@pytest.fixture
def open_logs() -> Iterator[Open]:
    sinks: list[Sink] = []

    def open_one(**options: Any) -> tuple[Logs, Sink]:
        sink = Sink()
        sinks.append(sink)
        sink.logs = configure(**{"format": "json", "fd": sink.fd, **options})
        return sink.logs, sink

    yield open_one
    for sink in sinks:
        sink.close()


def record(**fields: Any) -> RequestRecord:
    values = {
        "timestamp": datetime.now(UTC),
        "level": "warning" if fields.get("status", 200) >= 500 else "info",
        "event": "request",
        "correlation_id": "c-1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "model": "llama",
        "status": 200,
    }
    return {**values, **fields}  # type: ignore[typeddict-item,return-value]


def test_a_request_is_one_json_line(open_logs: Open) -> None:
    logs, sink = open_logs()
    logs.log_request(record(duration_ms=12.5, attempts=2, fallback=True, key="team-a", ttft_ms=None))
    [event] = sink.events()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,6}Z", event.pop("timestamp"))
    assert event == {
        "level": "info",
        "event": "request",
        "correlation_id": "c-1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "model": "llama",
        "status": 200,
        "duration_ms": 12.5,
        "attempts": 2,
        "fallback": True,
        "key": "team-a",
        "ttft_ms": None,
    }


@pytest.mark.parametrize(
    ("level", "status", "written"),
    [
        ("info", 200, True),
        ("warning", 200, False),
        ("warning", 422, False),
        ("warning", 503, True),
        ("error", 503, False),
    ],
)
def test_requests_are_written_by_level(open_logs: Open, level: str, status: int, written: bool) -> None:
    logs, sink = open_logs(level=level)
    logs.log_request(record(status=status))
    assert bool(sink.events()) is written


def test_structlog_and_stdlib_events_have_the_same_shape(open_logs: Open) -> None:
    logs, sink = open_logs()
    structlog.get_logger().info("from_structlog", backend="llama-a")
    logs.logger.debug("too_quiet")
    logging.getLogger("aiohttp.server").error("from %s", "stdlib")
    warnings.warn("from warnings", stacklevel=1)
    first, second, third = sink.events()
    assert (first["event"], first["level"], first["backend"]) == ("from_structlog", "info", "llama-a")
    assert (second["event"], second["level"], second["logger"]) == ("from stdlib", "error", "aiohttp.server")
    assert "from warnings" in third["event"]
    assert third["logger"] == "py.warnings"


def test_exceptions_are_one_line_of_json(open_logs: Open) -> None:
    logs, sink = open_logs()
    for log in (logs.logger.exception, logging.getLogger("asyncio").exception):
        try:
            raise ValueError(f"no {SECRET}")
        except ValueError:
            log("failed")
    for event in sink.events():
        assert event["level"] == "error"
        assert "Traceback" in event["exception"]
        assert "ValueError" in event["exception"]
        assert SECRET not in event["exception"]


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        f"Incorrect API key provided: {SECRET}.",
        "sk-ant-REDACTED",
        "hf_abcdefghijklmnop",
        "ghp_abcdefghijklmnop1234",
        "AKIAIOSFODNN7EXAMPLE",
        "Bearer abc.def-ghi",
        "authorization: bearer abcdef",
        "Basic dXNlcjpwYXNz",
        "http://user:hunter2@10.0.0.5:8000/v1",
        "redis://:hunter2@cache/0",
        "/v1/models?api_key=hunter2&x=1",
        "/v1/models?access_token=hunter2",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-def",
        "{'X-API-Key': 'hunter2'}",
        "x-api-key: hunter2",
        'password="hunter2"',
    ],
)
@pytest.mark.parametrize("format", ["json", "console"])
def test_what_looks_like_a_secret_never_reaches_a_line(open_logs: Open, text: str, format: str) -> None:
    logs, sink = open_logs(format=format)
    logs.logger.info("e", note=text, nested={"deep": [text]}, error=ValueError(text))
    logging.getLogger("x").warning("%s", text)
    logging.getLogger("x").warning(text)
    logs.logger.info(text)
    written = sink.text()
    assert written.count("[redacted]") == 6
    for part in ("hunter2", "abcdefghij", "0123456789", "dXNlcjpwYXNz", "abc.def", "abc-def", "IOSFODNN", "abcdef"):
        assert part not in written.replace("[redacted]", "")


@pytest.mark.parametrize(
    "text",
    ["risk-assessment-model", "task-0123456789", "max_tokens=5", "http://10.0.0.5:8000/a@b", "a monkey", "qwen-0.5b"],
)
def test_what_is_no_secret_stays(open_logs: Open, text: str) -> None:
    logs, sink = open_logs()
    logs.logger.info("e", note=text)
    logs.log_request(record(model=text))
    first, second = sink.events()
    assert (first["note"], second["model"]) == (text, text)


@pytest.mark.parametrize("field", ["correlation_id", "path", "model"])
def test_a_secret_in_what_a_client_wrote_is_not_logged(open_logs: Open, field: str) -> None:
    logs, sink = open_logs()
    logs.log_request(record(**{field: f"x/{SECRET}"}))
    assert SECRET not in sink.text()


@pytest.mark.parametrize(
    "name", ["authorization", "Authorization", "api_key", "X-Api-Key", "password", "set-cookie", "token"]
)
def test_fields_with_telling_names_are_redacted_whole(open_logs: Open, name: str) -> None:
    logs, sink = open_logs()
    logs.logger.info("e", **{name: "hunter2", "headers": {name: ["hunter2"]}})
    assert "hunter2" not in sink.text()


def test_token_counts_are_not_secrets(open_logs: Open) -> None:
    logs, sink = open_logs()
    logs.logger.info("e", prompt_tokens=5, max_tokens=7, first_token_ms=3)
    [event] = sink.events()
    assert (event["prompt_tokens"], event["max_tokens"], event["first_token_ms"]) == (5, 7, 3)


@pytest.mark.parametrize("prompts", [False, True])
def test_prompts_are_written_only_when_asked_for(open_logs: Open, prompts: bool) -> None:
    logs, sink = open_logs(prompts=prompts)
    words = "the moon is made of cheese"
    logs.logger.info("e", prompt=words, request={"messages": [{"role": "user", "content": words}]})
    assert (words in sink.text()) is prompts


HOSTILE = st.text(st.characters(codec=None), max_size=40) | st.sampled_from(
    ["a\nb", "\r\n", "\x1b[2J", "\x85", "\u2028", "\u202e", "\ud800", "\x00", "\x7f", '"}\n{"event":"forged"}']
)
VALUES = st.recursive(
    HOSTILE | st.integers() | st.floats() | st.none() | st.booleans() | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HOSTILE | st.integers(), inner, max_size=3),
    max_leaves=6,
)
TRICKY = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(value=VALUES)
def test_nothing_can_break_a_line(open_logs: Open, value: Any) -> None:
    logs, sink = open_logs()
    try:
        logs.log_request(record(model=value, path=str(value)))
        logs.logger.info("e", value=value, **{str(value)[:9] or "x": value})
        logging.getLogger("x").warning("%s", value)
        text = sink.text()
        assert len(text.splitlines()) == 3
        assert not TRICKY.search(text)
        assert all(isinstance(json.loads(line), dict) for line in text.splitlines())
    finally:
        logs.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(value=VALUES)
def test_nothing_can_break_a_console_line(open_logs: Open, value: Any) -> None:
    logs, sink = open_logs(format="console")
    try:
        logs.log_request(record(model=value, path=str(value)))
        logs.logger.info(str(value), value=value)
        text = sink.text()
        assert len(text.splitlines()) == 2
        assert not TRICKY.search(text)
    finally:
        logs.close()


def test_a_console_line_is_for_people_and_its_traceback_is_marked(open_logs: Open) -> None:
    logs, sink = open_logs(format="console")
    logs.log_request(record(duration_ms=12.3456, model="two words", error_type=None))
    try:
        raise ValueError("x\n12:00:00.000 info forged")
    except ValueError:
        logs.logger.exception("failed")
    first, second, *traceback = sink.text().splitlines()
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d\.\d{3} info request correlation_id=c-1 method=POST path=/v1/chat/completions"
        r' model="two words" status=200 duration_ms=12\.346',
        first,
    )
    assert re.fullmatch(r"[\d:.]+ error failed", second)
    assert traceback
    assert all(line.startswith("  | ") for line in traceback)


def test_objects_that_defy_str_are_named_by_type(open_logs: Open) -> None:
    class Defiant:
        def __str__(self) -> str:
            raise RuntimeError

    logs, sink = open_logs()
    logs.logger.info("e", value=Defiant())
    [event] = sink.events()
    assert event["value"] == "<Defiant>"


def test_long_lines_are_cut(open_logs: Open) -> None:
    logs, sink = open_logs()
    logs.log_request(record(path="/" + "x" * 100_000))
    logs.log_request(record(correlation_id="c-2", **{f"field-{number}": "y" * 5000 for number in range(100)}))
    lines = sink.text().splitlines()
    assert all(len(line) <= MAX_LINE for line in lines)
    first, second = map(json.loads, lines)
    assert first["path"].endswith("x…")
    assert (second["correlation_id"], second["truncated"]) == ("c-2", True)


def test_closing_gives_the_defaults_back(open_logs: Open) -> None:
    before = list(logging.getLogger().handlers)
    logs, sink = open_logs()
    logs.logger.info("written_at_close")
    logs.close()
    logs.close()
    assert "written_at_close" in sink.text()
    assert logging.getLogger().handlers == before
    assert not structlog.is_configured()


@pytest.mark.parametrize("format", ["auto", "json"])
def test_a_pipe_gets_json_without_being_asked(open_logs: Open, format: str) -> None:
    logs, sink = open_logs(format=format)
    logs.logger.info("e")
    assert sink.events()


def test_a_terminal_gets_the_console_form_without_being_asked(open_logs: Open) -> None:
    ours, terminal = os.openpty()
    logs = configure(format="auto", fd=terminal)
    logs.logger.info("hello")
    logs.close()
    shown = os.read(ours, 1000).decode()
    os.close(terminal)
    os.close(ours)
    assert "\x1b[32minfo\x1b[0m hello" in shown


async def test_the_event_loop_is_not_held_up_by_a_reader_that_is_stuck(open_logs: Open) -> None:
    logs, _ = open_logs()  # nobody reads the pipe, which takes 64 KiB
    loop = asyncio.get_running_loop()
    started = loop.time()
    for _ in range(20_000):
        logs.log_request(record())
    assert loop.time() - started < 5
    assert logs.dropped > 0
