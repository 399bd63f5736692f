"""`seawall status`: a running gateway's backends as a table."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from gateway.operator_client import CannotRead, get

_INTERVAL = 1.0
_COLOURS = {"healthy": "green", "degraded": "yellow", "critical": "red", "closed": "green", "half_open": "yellow"}


def show(url: str, key: str | None, watch: bool) -> int:
    """Prints the table once, or until interrupted. Returns the exit code."""
    console = Console()
    try:
        if not watch:
            console.print(_table(get(url, "/status", key)))
            return 0
        with Live(_table(get(url, "/status", key)), console=console) as live:
            while True:
                time.sleep(_INTERVAL)
                live.update(_table(get(url, "/status", key)))
    except KeyboardInterrupt:
        return 0
    except CannotRead as error:
        console.print(f"cannot read the status of {url}: {error}", style="red")
        return 1


def _table(status: dict[str, Any]) -> Table:
    overall = status["health"]["overall_status"]
    errors = status["errors"]
    title = (
        f"Seawall {status['version']}  [{_COLOURS.get(overall, 'white')}]{overall}[/]  "
        f"up {int(status['uptime_seconds'])} s  in flight {status['requests_in_flight']}  "
        f"errors in the last minute {errors['errors_last_minute']}"
    )
    table = Table(title=title, title_justify="left")
    for name in ("backend", "kind", "state", "breaker"):
        table.add_column(name)
    for name in ("in flight", "waiting", "kv cache"):
        table.add_column(name, justify="right")
    table.add_column("message")
    for name, endpoint in status["endpoints"].items():
        healthy = "green" if endpoint["healthy"] else "red"
        breaker = endpoint["breaker"]
        table.add_row(
            name,
            endpoint["kind"],
            f"[{healthy}]{endpoint['state']}[/]"
            if endpoint["service"] == "active"
            else f"[yellow]{endpoint['service']}[/]",
            f"[{_COLOURS.get(breaker, 'red')}]{breaker}[/]",
            str(endpoint["in_flight"]),
            f"{endpoint['waiting']:g}",
            f"{endpoint['kv_cache']:.0%}",
            endpoint["message"],
        )
    return table
