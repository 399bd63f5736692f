"""The commands of `seawall` for whoever operates a running gateway: top, doctor, chaos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.chaos.how import How

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")]
UrlArgument = Annotated[str, typer.Argument(help="The gateway's address.")]
KeyOption = Annotated[str | None, typer.Option(envvar="SEAWALL_ADMIN_KEY", help="The operators' key.")]


def register(app: typer.Typer, panel: str) -> None:
    """Adds the commands, under a heading of `--help`."""
    for command in (top, doctor, chaos):
        app.command(rich_help_panel=panel)(command)


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


def chaos(
    url: UrlArgument = "http://127.0.0.1:8080",
    backend: Annotated[str | None, typer.Option(help="Which to break; none: the first supervised one.")] = None,
    how: Annotated[How, typer.Option(help="kill: SIGKILL. freeze: SIGSTOP, later SIGCONT.")] = How.KILL,
    pid: Annotated[int | None, typer.Option(help="Its process, where the gateway does not supervise it.")] = None,
    model: Annotated[str | None, typer.Option(help="The model to ask for; none: the route's first.")] = None,
    clients: Annotated[int, typer.Option(min=1, max=64, help="Clients that ask all the time.")] = 4,
    calm: Annotated[float, typer.Option(min=0.5, help="Seconds before the blow.")] = 5.0,
    frozen: Annotated[float, typer.Option(min=0.5, help="Seconds that a freeze lasts.")] = 10.0,
    patience: Annotated[float, typer.Option(min=1, help="Seconds to wait for the recovery.")] = 60.0,
    key: KeyOption = None,
    api_key: Annotated[str | None, typer.Option(envvar="SEAWALL_API_KEY", help="A client's key.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before breaking it.")] = False,
) -> None:
    """Break a backend on this machine on purpose, under a small load, and watch what clients see of it.

    Exit code 0 if no request failed and the backend came back, else 1.
    """
    from gateway.chaos.command import Plan, run

    plan = Plan(
        url,
        how,
        backend,
        model,
        pid,
        clients=clients,
        calm=calm,
        frozen=frozen,
        patience=patience,
        admin_key=key,
        api_key=api_key,
    )
    raise typer.Exit(run(plan, (lambda _: True) if yes else typer.confirm))
