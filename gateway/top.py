"""`seawall top`: a running gateway live in a terminal."""

from __future__ import annotations

import contextlib
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gateway.operator_client import CannotRead, get, printable

_BARS = "▁▂▃▄▅▆▇█"
_SPARK = 60
_QUIT = ("q", "Q", "\x03", "\x1b")
_TONES = {
    **dict.fromkeys(("healthy", "closed", "full", "ready", "ok"), "green"),
    **dict.fromkeys(("degraded", "half_open", "draining", "loading", "reduced", "starting", "backoff"), "yellow"),
    **dict.fromkeys(("critical", "open", "ejected", "unhealthy", "minimal", "failed"), "red"),
}


def run(url: str, key: str | None, *, interval: float = 1.0, once: bool = False) -> int:
    """Shows it until q is pressed, or once where there is no terminal. Returns the exit code."""
    console = Console()
    try:
        state = _look(url, key)
    except CannotRead as error:
        console.print(Text(f"cannot read the state of {url}: {error}", style="red"))
        return 1
    if once or not console.is_terminal:
        console.print(frame(state))
        return 0
    screen = Live(frame(state), console=console, screen=True, auto_refresh=False)
    with contextlib.suppress(KeyboardInterrupt), _Keys() as keys, screen as live:
        while keys.wait(interval) not in _QUIT:
            try:
                state = _look(url, key)
                live.update(frame(state), refresh=True)
            except CannotRead as error:
                live.update(frame(state, notice=f"{url}: {error}; trying again"), refresh=True)
    return 0


def frame(state: dict[str, Any], notice: str = "") -> RenderableType:
    """The whole screen for one state, as `GET /admin/state` gives it, with the latest failures under `failures`."""
    parts: list[RenderableType] = [_headline(state), _charts(state["history"])]
    if notice:
        parts.append(Text(notice, style="bold red"))
    problems = [
        f"{name}: {check['message']}"
        for name, check in state["health"]["checks"].items()
        if check["status"] != "healthy"
    ]
    parts += [Text(printable(problem), style="yellow") for problem in problems[:4]]
    parts += [_backends(state["backends"]), _routes(state["routes"]), _failures(state.get("failures", ()))]
    parts.append(Text("q quits", style="dim"))
    return Group(*parts)


def _look(url: str, key: str | None) -> dict[str, Any]:
    state = get(url, "/admin/state", key, member="history")
    failed = get(url, "/admin/requests?outcome=failed&limit=8", key, member="requests")
    return state | {"failures": failed["requests"]}


def _headline(state: dict[str, Any]) -> Text:
    overall = "draining" if state["draining"] else state["health"]["overall_status"]
    samples = state["history"]
    latest: dict[str, Any] = samples[-1] if samples else {"ok": 0.0, "errors": {}}
    text = Text.assemble(("Seawall ", "bold"), (f"{state['version']}  ", "dim"))
    text.append(f" {overall} ", style=f"bold reverse {_TONES.get(overall, 'white')}")
    facts = (
        ("req/s", f"{latest['ok'] + _failed(latest):.1f}"),
        ("errors/min", str(state["errors"]["errors_last_minute"])),
        ("in flight", str(state["in_flight"])),
        ("queued", str(state["queued"])),
        ("up", _duration(state["uptime_seconds"])),
    )
    for name, value in facts:
        text.append(f"  {name} ", style="dim")
        text.append(value, style="bold")
    return text


def _charts(samples: Sequence[dict[str, Any]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    rows: tuple[tuple[str, str, Callable[[dict[str, Any]], float | None], str], ...] = (
        ("requests/s", "cyan", lambda s: s["ok"] + _failed(s), ""),
        ("errors/s", "red", lambda s: _failed(s), ""),
        ("first token p95", "magenta", lambda s: s["ttft"]["p95"], "s"),
        ("between tokens p95", "magenta", lambda s: s["itl"]["p95"], "s"),
    )
    for name, style, value, unit in rows:
        values = [value(sample) for sample in samples[-_SPARK:]]
        latest = next((v for v in reversed(values) if v is not None), None)
        shown = "-" if latest is None else _seconds(latest) if unit else f"{latest:.1f}"
        grid.add_row(Text(name, style="dim"), Text(sparkline(values), style=style), Text(shown, style="bold"))
    return grid


def _failed(sample: dict[str, Any]) -> float:
    """Failures a second; a client that left is none."""
    return float(sum(rate for kind, rate in sample["errors"].items() if kind != "client_disconnected"))


def sparkline(values: Sequence[float | None]) -> str:
    """One character a value, scaled to the highest; a blank where there is none."""
    highest = max((value for value in values if value is not None), default=0.0)
    if highest <= 0:
        return "".join(" " if value is None else _BARS[0] for value in values)
    top = len(_BARS) - 1
    return "".join(" " if value is None else _BARS[round(top * value / highest)] for value in values)


def _backends(backends: Sequence[dict[str, Any]]) -> Table:
    gpus = any(backend["gpu_memory"] is not None for backend in backends)
    more = ("=gpu", "worker") if gpus else ("worker",)
    table = _table("backend", "state", "circuit", "=load", "=p50 / p95", "=failed", "=kv", *more)
    for backend in backends:
        state = backend["service"] if backend["service"] != "active" else backend["state"]
        circuit = backend["breaker"]
        lately = backend["lately"] or {"p50": None, "p95": None, "failed": 0}
        worker = backend["worker"]
        forced = " (held)" if circuit["forced"] else f" in {circuit['seen_by']}" if circuit["seen_by"] else ""
        kv_cache, gpu = backend["kv_cache"], backend["gpu_memory"]
        table.add_row(
            Text(printable(backend["name"]), style="bold"),
            _toned(state),
            _toned(circuit["state"], forced),
            f"{backend['in_flight']}/{backend['limit']}"
            + (f" +{backend['waiting']:.0f}" if backend["waiting"] else ""),
            "-" if lately["p50"] is None else f"{_seconds(lately['p50'], 1000)} / {_seconds(lately['p95'], 1000)}",
            Text(str(lately["failed"]), style="red" if lately["failed"] else "dim"),
            "-" if kv_cache is None else f"{kv_cache:.0%}",
            *([("-" if gpu is None else Text(f"{gpu:.0%}", style="yellow" if backend["strained"] else ""))] * gpus),
            _toned(worker["state"], _restarts(worker["restarts"])) if worker else Text("-", style="dim"),
        )
    return table


def _restarts(count: int) -> str:
    return f", {count} restart{'s' * (count != 1)}" if count else ""


def _routes(routes: Sequence[dict[str, Any]]) -> Table:
    table = _table("route", "tiers", "=answered", "=failed", "=retries", "=queued", "level")
    for route in routes:
        tiers = Text(" else ", style="dim").join(
            Text(" ").join(
                Text(printable(target["backend"]), style="" if target["usable"] else "red strike") for target in tier
            )
            for tier in route["tiers"]
        )
        failed = sum(route["errors"].values())
        table.add_row(
            Text(printable(route["name"]), style="bold"),
            tiers,
            str(route["ok"]),
            Text(str(failed), style="red" if failed else "dim"),
            str(route["retries"]),
            str(route["queued"]),
            _toned(route["degradation"]) if route["degradation"] else Text("off", style="dim"),
        )
    return table


def _failures(stories: Sequence[dict[str, Any]]) -> RenderableType:
    if not stories:
        return Panel(Text("No failed requests are kept.", style="dim"), title="recent failures", title_align="left")
    shown = Text("recent failures\n", style="dim")
    for story in stories:
        way = " → ".join(f"{attempt['backend']} {attempt['outcome']}" for attempt in story["attempts"])
        shown.append(story["timestamp"][11:19] + " ")
        shown.append(f" {story['outcome']:<16}", style="red not dim")
        shown.append(f" {_seconds(story['duration_ms'], 1000):>8}  ")
        shown.append(printable(story["correlation_id"]) + "\n", style="not dim")  # whole, to be copied
        shown.append(f"          {printable(story['model'] or '-')}: {printable(way or 'no backend asked')}\n")
    return shown


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", expand=False, title_justify="left")
    for name in columns:
        table.add_column(
            name.removeprefix("="),
            justify="right" if name.startswith("=") else "left",
            no_wrap=name != "tiers",
            min_width=20 if name == "tiers" else None,
        )
    return table


def _toned(word: str, more: str = "") -> Text:
    return Text(printable(word.replace("_", " ")) + more, style=_TONES.get(word, ""))


def _seconds(value: float | None, per_second: float = 1.0) -> str:
    if value is None:
        return "-"
    seconds = value / per_second
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


class _Keys:
    """Single keys from the terminal, without echo, while its context is open."""

    def __enter__(self) -> Self:
        self._saved: list[Any] | None = None
        if sys.stdin.isatty():
            self._saved = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._saved is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._saved)

    def wait(self, seconds: float) -> str:
        """A key pressed within that time, or nothing."""
        if self._saved is None:
            time.sleep(seconds)
            return ""
        return next(self._pressed(seconds), "")

    def _pressed(self, seconds: float) -> Iterator[str]:
        if select.select([sys.stdin], [], [], seconds)[0]:
            yield sys.stdin.read(1)
