"""`seawall worker …`: a model server of this machine, started, watched and brought back by the supervisor."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from backends.workers.supervisor import WorkerSpec

worker = typer.Typer(help="Run a model server that Seawall understands, supervised.", no_args_is_help=True)

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
HostOption = Annotated[str, typer.Option(help="Address to listen on.")]
StatusOption = Annotated[
    int | None,
    typer.Option("--status-port", min=1, max=65535, help="Serve the supervisor's /status, /metrics and /health here."),
]
LingerOption = Annotated[
    float, typer.Option(min=0, help="Seconds to answer model_loading_failed after giving up, before the exit with 1.")
]
ReadyOption = Annotated[float, typer.Option(min=1, help="Seconds that loading may take.")]
FailuresOption = Annotated[
    int, typer.Option("--max-failures", min=0, help="Failures in a row that are forgiven before it is given up.")
]


@worker.command("embedded", context_settings=_PASS_ON)
def worker_embedded(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="tide or tide-mini.")] = "tide",
    host: HostOption = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 9001,
    status_port: StatusOption = None,
    max_failures: FailuresOption = 5,
    linger: LingerOption = 60.0,
) -> None:
    """A small text model on the CPU. Flags after `--` go to it as they are; `-- --help` lists them."""
    arguments = ["text", "--model", model, *context.args]
    _supervise(
        _module("embedded", model, arguments, host, port, has_tokens=True), host, status_port, max_failures, linger
    )


@worker.command("text", context_settings=_PASS_ON)
def worker_text(
    context: typer.Context,
    model: Annotated[Path, typer.Option(help="The folder of a transformers causal language model.")],
    host: HostOption = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 9001,
    ready_timeout: ReadyOption = 1800.0,
    status_port: StatusOption = None,
    max_failures: FailuresOption = 5,
    linger: LingerOption = 60.0,
) -> None:
    """A transformers model behind vLLM's HTTP interface. Flags after `--` go to it; `-- --help` lists them."""
    arguments = ["text", "--model", str(model.expanduser().resolve()), *context.args]
    spec = _module("embedded", model.resolve().name, arguments, host, port, has_tokens=True)
    _supervise(replace(spec, ready_timeout=ready_timeout), host, status_port, max_failures, linger)


@worker.command("diffusers", context_settings=_PASS_ON)
def worker_diffusers(
    context: typer.Context,
    pipeline: Annotated[Path | None, typer.Option(help="A local diffusers pipeline; none: the embedded one.")] = None,
    host: HostOption = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 9004,
    status_port: StatusOption = None,
    max_failures: FailuresOption = 5,
    linger: LingerOption = 60.0,
) -> None:
    """An image model behind OpenAI's images API. Flags after `--` go to it as they are; `-- --help` lists them."""
    chosen = [] if pipeline is None else ["--pipeline", str(pipeline)]
    name = "shoal" if pipeline is None else pipeline.name
    _supervise(
        _module("diffusers", name, [*chosen, *context.args], host, port), host, status_port, max_failures, linger
    )


@worker.command("vllm", context_settings=_PASS_ON)
def worker_vllm(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A model's directory or name, as for `vllm serve`.")],
    host: HostOption = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    name: Annotated[
        str | None, typer.Option(help="What requests call the model. Default: its directory's name.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Devices, such as 0 or 2,3 (split over them); empty: none. Default: all it sees.")
    ] = None,
    sleep: Annotated[bool, typer.Option("--sleep", help="Open vLLM's POST /sleep and /wake_up on its port.")] = False,
    drain: Annotated[float, typer.Option(min=0, help="Seconds for running requests to end after SIGTERM.")] = 30.0,
    ready_timeout: ReadyOption = 1800.0,
    liveness_timeout: Annotated[
        float, typer.Option(min=0, help="Seconds without a token from anyone that mean a hung engine; 0: never.")
    ] = 60.0,
    program: Annotated[str | None, typer.Option(help="The vllm to run.", envvar="SEAWALL_VLLM")] = None,
    status_port: StatusOption = None,
    max_failures: FailuresOption = 5,
    linger: LingerOption = 60.0,
) -> None:
    """`vllm serve MODEL`, supervised. Flags after `--` go to vLLM as they are."""
    from backends.workers.vllm import VLLMMissingError, VLLMOptions, vllm_worker

    options = VLLMOptions(
        model=model,
        host=host,
        port=port,
        name=name,
        gpu=gpu,
        sleep=sleep,
        drain=drain,
        ready_timeout=ready_timeout,
        liveness_timeout=liveness_timeout,
        program=program,
        extra=context.args,
    )
    try:
        spec = vllm_worker(options)
    except VLLMMissingError as error:
        typer.echo(error, err=True)
        raise typer.Exit(1) from None
    _supervise(spec, host, status_port, max_failures, linger)


def _module(
    module: str, name: str, arguments: Sequence[str], host: str, port: int, *, has_tokens: bool = False
) -> WorkerSpec:
    argv = [sys.executable, "-m", f"backends.workers.{module}", *arguments]
    if arguments and arguments[-1] in ("--help", "-h"):
        os.execv(sys.executable, argv)  # noqa: S606 - our own module
    from backends.workers.ports import SHARED_ENV, base_url
    from backends.workers.supervisor import WorkerSpec
    from backends.workers.token_probe import TokenProbe

    url = base_url(host, port)
    return WorkerSpec(
        name=name,
        argv=[*argv, "--host", host, "--port", str(port)],
        env={"PYTHONUNBUFFERED": "1", **SHARED_ENV},
        health_url=f"{url}/health",
        stand_in=True,
        shares_port=True,
        ready_timeout=600.0,
        liveness=TokenProbe(url) if has_tokens else None,
        liveness_timeout=75.0,
        grace=45.0,
    )


def _supervise(spec: WorkerSpec, host: str, status_port: int | None, max_failures: int, linger: float) -> None:
    from backends.workers.supervisor import WorkerFailedError, run_supervised

    spec = replace(spec, restart=replace(spec.restart, max_failures=max_failures))
    status = None if status_port is None else (host, status_port)
    try:
        run_supervised([spec], status=status, linger=linger)
    except WorkerFailedError as error:
        typer.echo(error, err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        typer.echo(f"cannot serve the status on port {status_port}: {error.strerror}", err=True)
        raise typer.Exit(1) from None
