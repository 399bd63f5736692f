"""`seawall status`: a running gateway's backends as a table."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway.operator_client import CannotRead, get, printable

_INTERVAL = 1.0
_COLOURS = {"healthy": "green", "degraded": "yellow", "critical": "red", "closed": "green", "half_open": "yellow"}
#: Columns beside the backend's name, those of numbers with "=".
_COLUMNS = ("kind", "state", "circuit", "=in flight", "=waiting", "=kv cache")


def show(url: str, key: str | None, watch: bool) -> int:
    """Prints the table once, or until interrupted. Returns the exit code."""
    console = Console()
    try:
        if not watch:
            console.print(_shown(_look(url, key)))
            return 0
        with Live(_shown(_look(url, key)), console=console) as live:
            while True:
                time.sleep(_INTERVAL)
                live.update(_shown(_look(url, key)))
    except KeyboardInterrupt:
        return 0
    except CannotRead as error:
        console.print(f"cannot read the status of {url}: {error}", style="red")
        return 1


def _look(url: str, key: str | None) -> dict[str, Any]:
    return get(url, "/status", key, member="endpoints")


def _shown(status: dict[str, Any]) -> RenderableType:
    """One line on the whole, a table that fits 80 columns, and what is wrong in words below it."""
    overall, errors = status["health"]["overall_status"], status["errors"]
    headline = Text.assemble(
        f"Seawall {status['version']}  ",
        ("draining" if status["draining"] else overall, _COLOURS.get(overall, "white")),
        f"  up {int(status['uptime_seconds'])} s  in flight {status['requests_in_flight']}  "
        f"errors in the last minute {errors['errors_last_minute']}",
    )
    endpoints: dict[str, dict[str, Any]] = status["endpoints"]
    messages = {name: endpoint["message"] for name, endpoint in endpoints.items() if endpoint["message"]}
    said = [f"{name}: {message}" for name, message in messages.items()]
    said += [
        f"{name}: {check['message']}"
        for name, check in status["health"]["checks"].items()
        if check["status"] != "healthy" and name != "backends"
    ]
    return Group(headline, _table(endpoints), *(Text(printable(line), style="yellow") for line in said))


def _table(endpoints: dict[str, dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("backend", overflow="fold")
    for name in _COLUMNS:
        table.add_column(name.removeprefix("="), justify="right" if name.startswith("=") else "left", no_wrap=True)
    for name, endpoint in endpoints.items():
        state = endpoint["state"] if endpoint["service"] == "active" else endpoint["service"]
        tone = "red" if not endpoint["healthy"] else "green" if endpoint["service"] == "active" else "yellow"
        breaker = endpoint["breaker"]
        table.add_row(
            Text(printable(name), style="bold"),
            endpoint["kind"],
            Text(state, style=tone),
            Text(breaker.replace("_", " "), style=_COLOURS.get(breaker, "red")),
            str(endpoint["in_flight"]),
            f"{endpoint['waiting']:g}",
            f"{endpoint['kv_cache']:.0%}",
        )
    return table
