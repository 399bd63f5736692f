"""Logs: one line per event, JSON or for people, through one buffered writer.

structlog's loggers and the standard library's both end here; `Logs.log_request`, called once per request, goes past
their processors. Every line, whatever its way, has control characters escaped (a value can't forge a line or drive a
terminal), secrets redacted and a bounded length.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Literal, TypedDict

import orjson
import structlog

from gateway.observe.line_writer import LineWriter
from gateway.observe.redaction import as_text, might_hold_secret, redact, redact_line

Format = Literal["auto", "json", "console"]
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

#: Bytes of a line; a longer one has its texts cut to `_CUT_TEXT` characters and its lists to `_CUT_LIST` entries.
MAX_LINE = 32 * 1024
_CUT_TEXT = 2000
_CUT_LIST = 20

_JSON_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z
# What orjson writes as it is, but some reader takes for a line's end (U+0085, U+2028, U+2029), or a terminal for a
# command (DEL, the C1 controls) or for a change of direction that shows a line as what it is not (U+202A to U+202E,
# U+2066 to U+2069).
_TRICKY = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_COLOURS = {
    "debug": "\x1b[2m",
    "info": "\x1b[32m",
    "warning": "\x1b[33m",
    "error": "\x1b[31m",
    "critical": "\x1b[1;31m",
}
_PLAIN = re.compile(r"[^\s\"'=\\]+")


class RequestRecord(TypedDict, total=False):
    """Fields of a request's line, in their order, all optional.

    Times are in milliseconds; `key` is the name of an API key, `client` an address.
    """

    timestamp: datetime
    level: str
    event: str
    correlation_id: str
    method: str
    path: str
    route: str
    model: str | None
    backend: str | None
    status: int
    error_type: str | None
    attempts: int
    fallback: bool
    stream: bool
    duration_ms: float
    ttft_ms: float | None
    overhead_ms: float
    prompt_tokens: int
    completion_tokens: int
    bytes_in: int
    bytes_out: int
    key: str | None
    client: str
    degraded: str | None
    warning: str | None


class Logs:
    """The process's log. `logger` is a structlog logger; `close` writes what is left and undoes the set-up."""

    def __init__(
        self,
        writer: LineWriter,
        *,
        console: bool,
        level: str,
        prompts: bool,
        colours: bool = False,
        worker: int | None = None,
    ) -> None:
        self.logger: Any = structlog.get_logger()
        self._writer = writer
        self._level = LEVELS[level]
        self._prompts = prompts
        self._own: dict[str, Any] = {} if worker is None else {"worker": worker}
        self._render: Callable[[Mapping[str, Any]], bytes] = _Console(colours) if console else _json

    @property
    def dropped(self) -> int:
        """Lines lost because their reader was too slow."""
        return self._writer.dropped

    def log_request(self, record: RequestRecord) -> None:
        """Writes a request's line."""
        if LEVELS[record["level"]] >= self._level:
            # What a client wrote; the other fields come from the configuration and from here.
            suspect = might_hold_secret(record["correlation_id"]) or might_hold_secret(
                f"{record['path']} {record['model']}"
            )
            self._write({**record, **self._own} if self._own else record, suspect=suspect)

    def log_event(self, event: MutableMapping[str, Any]) -> None:
        """Writes an event of structlog's or the standard library's, without secrets and prompts."""
        shown = redact(event, prompts=self._prompts)
        self._write({"timestamp": None} | self._own | shown | {"timestamp": datetime.now(UTC)})

    def flush(self) -> None:
        """Waits (two seconds at most) until everything is written."""
        self._writer.flush()

    def close(self) -> None:
        """Writes the rest and gives stdlib logging and structlog back their defaults. May be called again."""
        root = logging.getLogger()
        for handler in [handler for handler in root.handlers if isinstance(handler, _StdlibHandler)]:
            root.removeHandler(handler)
        logging.captureWarnings(False)
        structlog.reset_defaults()
        atexit.unregister(self.close)
        self._writer.close()

    def _write(self, event: Mapping[str, Any], *, suspect: bool = True) -> None:
        line = self._render(event)
        if len(line) > MAX_LINE:
            line = self._render(_cut(event))
            if len(line) > MAX_LINE:
                kept = {name: event.get(name) for name in ("timestamp", "level", "event", "correlation_id")}
                line = self._render(_cut({**kept, "truncated": True}))
        self._writer.write(redact_line(line) if suspect else line)


def configure(
    *,
    format: Format = "auto",
    level: str = "info",
    prompts: bool = False,
    fd: int | None = None,
    lock: int | None = None,
    worker: int | None = None,
) -> Logs:
    """Sets up logging for the process, after any fork (a thread writes the lines).

    `format` auto is console on a terminal and JSON elsewhere; `prompts` lets texts of users and models through; `fd`
    defaults to standard output's. Several processes that write there name one `lock` file, and each is a `worker` whose
    number stands in its lines. Raises KeyError for an unknown level.
    """
    descriptor = sys.stdout.fileno() if fd is None else fd
    terminal = os.isatty(descriptor)
    console = format == "console" or (format == "auto" and terminal)
    writer = LineWriter(descriptor, lock=lock)
    logs = Logs(writer, console=console, level=level, prompts=prompts, colours=terminal, worker=worker)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            _Emit(logs),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.addHandler(_StdlibHandler(logs))
    root.setLevel(max(LEVELS[level], logging.INFO))  # libraries' debug lines drown everything else
    logging.captureWarnings(True)
    atexit.register(logs.close)
    return logs


class _Emit:
    """structlog's last processor: hands the event over instead of returning a text."""

    def __init__(self, logs: Logs) -> None:
        self._logs = logs

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        self._logs.log_event(event)
        raise structlog.DropEvent


class _StdlibHandler(logging.Handler):
    """Brings the standard library's records (aiohttp, asyncio, warnings) into the same log."""

    def __init__(self, logs: Logs) -> None:
        super().__init__()
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event = {"level": record.levelname.lower(), "event": record.getMessage(), "logger": record.name}
            if record.exc_info and record.exc_info[0] is not None:
                event["exception"] = logging.Formatter().formatException(record.exc_info)
            self._logs.log_event(event)
        except Exception:
            self.handleError(record)


def _json(event: Mapping[str, Any]) -> bytes:
    try:
        line = orjson.dumps(event, default=str, option=_JSON_OPTIONS)
    except (TypeError, ValueError):  # lone surrogates, integers beyond 64 bits, keys or objects that defy str()
        line = json.dumps(_presentable(event), separators=(",", ":")).encode("ascii")
    if not line.isascii() or line.find(b"\x7f") >= 0:
        line = _TRICKY.sub(lambda match: f"\\u{ord(match[0]):04x}", line.decode("utf-8")).encode("utf-8")
    return line + b"\n"


def _presentable(value: Any, depth: int = 0) -> Any:
    """The value as types that every JSON encoder takes."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping) and depth < 10:
        return {as_text(name): _presentable(member, depth + 1) for name, member in value.items()}
    if isinstance(value, list | tuple) and depth < 10:
        return [_presentable(member, depth + 1) for member in value]
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return as_text(value)


def _cut(value: Any) -> Any:
    """A copy with long texts and lists cut."""
    if isinstance(value, str):
        return value if len(value) <= _CUT_TEXT else value[: _CUT_TEXT - 1] + "…"
    if isinstance(value, Mapping):
        return {_cut(name): _cut(member) for name, member in list(value.items())[: _CUT_LIST * 2]}
    if isinstance(value, list | tuple):
        return [_cut(member) for member in value[:_CUT_LIST]]
    return value


class _Console:
    """`12:00:00.000 info request path=/v1/models status=200`; tracebacks follow on lines of their own, marked `|`."""

    def __init__(self, colours: bool) -> None:
        self._colours = colours

    def __call__(self, event: Mapping[str, Any]) -> bytes:
        fields = dict(event)
        at, level = fields.pop("timestamp"), as_text(fields.pop("level", "info"))
        blocks = [as_text(fields.pop(name)) for name in ("exception", "stack") if fields.get(name)]
        shown = f"{_COLOURS.get(level, '')}{level}\x1b[0m" if self._colours else level
        parts = [f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}", shown, _visible(as_text(fields.pop("event", "")))]
        parts += [f"{_visible(as_text(name))}={_quoted(value)}" for name, value in fields.items() if value is not None]
        lines = [" ".join(parts)]
        lines += [f"  | {_visible(row)}" for block in blocks for row in block.splitlines()]
        return ("\n".join(lines) + "\n").encode("utf-8")


def _visible(text: str) -> str:
    """The text with control characters shown as escapes."""
    return _TRICKY.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _quoted(value: Any) -> str:
    text = _visible(f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else as_text(value))
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
