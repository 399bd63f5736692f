"""`seawall status`: a running gateway's backends as a table."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.live import Live
from rich.table import Table

_INTERVAL = 1.0
_COLOURS = {"healthy": "green", "degraded": "yellow", "critical": "red", "closed": "green", "half_open": "yellow"}


def show(url: str, key: str | None, watch: bool) -> int:
    """Prints the table once, or until interrupted. Returns the exit code."""
    console = Console()
    try:
        if not watch:
            console.print(_table(_fetch(url, key)))
            return 0
        with Live(_table(_fetch(url, key)), console=console) as live:
            while True:
                time.sleep(_INTERVAL)
                live.update(_table(_fetch(url, key)))
    except KeyboardInterrupt:
        return 0
    except (OSError, ValueError) as error:
        console.print(f"cannot read the status of {url}: {_reason(error)}", style="red")
        return 1


def _fetch(url: str, key: str | None) -> dict[str, Any]:
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("the address must begin with http:// or https://")
    request = urllib.request.Request(url.rstrip("/") + "/status")  # noqa: S310 - the scheme is checked above
    if key is not None:
        request.add_header("Authorization", f"Bearer {key}")
    with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
        found: dict[str, Any] = json.load(answer)
        return found


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        try:
            return str(json.load(error)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return f"HTTP {error.code}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error)


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
            f"[{healthy}]{endpoint['state']}[/]",
            f"[{_COLOURS.get(breaker, 'red')}]{breaker}[/]",
            str(endpoint["in_flight"]),
            f"{endpoint['waiting']:g}",
            f"{endpoint['kv_cache']:.0%}",
            endpoint["message"],
        )
    return table
