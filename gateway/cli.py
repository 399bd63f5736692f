"""The command `seawall`. Exit codes: 0 fine, 1 failed, 2 usage or bad configuration.

Imports stand inside the commands: each pays only for what it uses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway import __version__, cli_operate
from gateway.cli_workers import worker

app = typer.Typer(
    name="seawall",
    help="A resilience gateway in front of GPU model backends.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
#: The parts of `seawall --help`, in the order of a person's way.
_SET_UP, _RUN, _WATCH = "Set it up", "Run it", "Watch it"
imports = typer.Typer(help="Turn another gateway's configuration into a gateway.yaml.", no_args_is_help=True)
alerts = typer.Typer(help="Messages to alerts.targets.", no_args_is_help=True)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")]
PortOption = Annotated[int | None, typer.Option(min=0, max=65535, help="Listen on this port instead (0: any).")]


def _version(shown: bool) -> None:
    if shown:
        typer.echo(f"seawall {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Seawall."""


@app.command(rich_help_panel=_SET_UP)
def init(
    urls: Annotated[list[str] | None, typer.Argument(help="Model servers; none: the usual ports here.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("gateway.yaml"),
    listen: Annotated[str, typer.Option(help="Where the gateway is to listen.")] = "127.0.0.1:8080",
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Find running model servers and write a configuration for them."""
    from gateway.setup.init import run

    raise typer.Exit(run(urls or [], output, listen, force))


@app.command(rich_help_panel=_SET_UP)
def check(file: Annotated[Path, typer.Argument(help="The configuration file.")] = Path("gateway.yaml")) -> None:
    """Say everything that is wrong with a configuration, and each route's worst case."""
    from gateway.config.check import check_file, render

    report = check_file(file)
    typer.echo(render(report))
    raise typer.Exit(1 if report.problems else 0)


@app.command(rich_help_panel=_SET_UP)
def explain(
    model: Annotated[str, typer.Argument(help="The model that a request names.")],
    config: ConfigOption = Path("gateway.yaml"),
    down: Annotated[list[str] | None, typer.Option(help="Suppose that this backend is down; may be repeated.")] = None,
    url: Annotated[str | None, typer.Option(help="A running gateway whose backends' state counts.")] = None,
    key: Annotated[str | None, typer.Option(envvar="SEAWALL_ADMIN_KEY", help="The operator's key.")] = None,
) -> None:
    """Tell which way a request for a model would take, without sending one."""
    import asyncio

    from gateway.config import ConfigError, load_config
    from gateway.explain import explain as explained
    from gateway.operator_client import CannotRead, get

    try:
        loaded = load_config(config)
        seen = None if url is None else get(url, "/status", key, member="endpoints")["endpoints"]
        typer.echo(asyncio.run(explained(loaded, model, down or (), seen)))
    except ConfigError as error:
        for problem in error.problems:
            typer.echo(problem, err=True)
        raise typer.Exit(2) from None
    except ValueError as error:
        typer.echo(error, err=True)
        raise typer.Exit(2) from None
    except OSError as error:  # a certificate that the configuration names
        typer.echo(f"{error.filename}: {error.strerror}", err=True)
        raise typer.Exit(2) from None
    except CannotRead as error:
        typer.echo(f"cannot read the status of {url}: {error}", err=True)
        raise typer.Exit(1) from None


@app.command(rich_help_panel=_SET_UP)
def schema() -> None:
    """Print the JSON Schema of gateway.yaml, for editors and other tools."""
    import json

    from gateway.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@imports.command("litellm")
def import_litellm(
    file: Annotated[Path, typer.Argument(help="LiteLLM's config.yaml.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file to write; none: print it.")] = None,
) -> None:
    """Turn a LiteLLM proxy's configuration into a gateway.yaml. Secrets become variables; what is left out is said."""
    from gateway.setup.commands import run_import

    raise typer.Exit(run_import(file, output))


@app.command(rich_help_panel=_RUN)
def serve(config: ConfigOption = Path("gateway.yaml"), port: PortOption = None) -> None:
    """Run the gateway in front of the backends in the configuration.

    SIGHUP or a changed file reloads the configuration, whole or not at all; SIGTERM drains.
    """
    from gateway.app import run

    raise typer.Exit(run(config, port))


@app.command(rich_help_panel=_RUN)
def demo(port: PortOption = None) -> None:
    """Run small real models on this machine's CPU, and the gateway in front of them."""
    from gateway.demo import run

    raise typer.Exit(run(port))


@app.command(rich_help_panel=_WATCH)
def status(
    url: Annotated[str, typer.Argument(help="The gateway's address.")] = "http://127.0.0.1:8080",
    key: Annotated[str | None, typer.Option(envvar="SEAWALL_ADMIN_KEY", help="The operator's key.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep the table up to date.")] = False,
) -> None:
    """Show a running gateway's backends: health, circuit breakers, load."""
    from gateway.status import show

    raise typer.Exit(show(url, key, watch))


@alerts.command("test")
def alerts_test(config: ConfigOption = Path("gateway.yaml")) -> None:
    """Send a test message to each target, and say which took it."""
    from gateway.observe.alert_test import run

    raise typer.Exit(run(config))


cli_operate.register(app, _WATCH)
app.add_typer(imports, name="import", rich_help_panel=_SET_UP)
app.add_typer(worker, name="worker", rich_help_panel=_RUN)
app.add_typer(alerts, name="alerts", rich_help_panel=_WATCH)


def main() -> None:
    """The entry point of `seawall` and `python -m gateway`."""
    app()
