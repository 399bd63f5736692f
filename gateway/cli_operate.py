"""The commands of `seawall` for whoever operates a running gateway: top, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")]
UrlArgument = Annotated[str, typer.Argument(help="The gateway's address.")]
KeyOption = Annotated[str | None, typer.Option(envvar="SEAWALL_ADMIN_KEY", help="The operators' key.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (top, doctor):
        app.command()(command)


def top(
    url: UrlArgument = "http://127.0.0.1:8080",
    key: KeyOption = None,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print it once.")] = False,
) -> None:
    """Watch a running gateway live: backends, routes, rates, errors, recent failures. q quits."""
    from gateway.top import run

    raise typer.Exit(run(url, key, interval=interval, once=once))


def doctor(
    config: ConfigOption = Path("gateway.yaml"),
    url: Annotated[str | None, typer.Argument(help="A running gateway to examine too.")] = None,
    key: KeyOption = None,
) -> None:
    """Examine a configuration, its backends and this machine, and say what to do. Exit code 1 if anything failed."""
    from gateway.doctor.command import run

    raise typer.Exit(run(config, url, key))
