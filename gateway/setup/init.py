"""`seawall init`: a gateway.yaml for the model servers that are found."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import typer

from gateway.config.check import check_file, render
from gateway.program import command
from gateway.setup.discover import Found, discover, usual_urls
from gateway.setup.draft import Draft, written

_IMAGES = {"timeout": {"first_token": "90s", "total": "5m"}, "circuit_breaker": {"slow_call": {"over": "60s"}}}


def draft(found: Sequence[Found], listen: str) -> Draft:
    """One backend for each server, one route for each model; servers with the same model share its route."""
    result = Draft(server={"listen": listen})
    routes: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}
    for server in found:
        settings: dict[str, object] = {"url": server.url, "kind": server.kind}
        port = urlsplit(server.url).port
        name = result.add_backend(f"{server.models[0].rsplit('/', 1)[-1]}-{port}" if port else server.kind, settings)
        for model in server.models:
            routes.setdefault(model, []).append(name)
            kinds[model] = server.kind
    for model, backends in routes.items():
        route: dict[str, object] = {"model": model, "backends": backends}
        if kinds[model] == "diffusers":
            route["policy"] = "images"
            result.policies["images"] = _IMAGES
        result.routes.append(route)
    return result


def run(urls: Sequence[str], output: Path, listen: str, force: bool) -> int:
    """Finds servers, writes the file, checks it. Returns the exit code."""
    if output.exists() and not force:
        typer.echo(f"{output} is there already. Give another name with --output, or --force.", err=True)
        return 2
    asked = [_whole(url) for url in urls] or usual_urls()
    typer.echo(f"Looking for model servers at {len(asked)} address{'es' * (len(asked) != 1)} ...")
    found = asyncio.run(discover(asked))
    if not found and not urls and typer.get_text_stream("stdin").isatty():
        answer = typer.prompt("None at the usual ports of this machine. URLs of yours, with spaces between")
        found = asyncio.run(discover([_whole(url) for url in answer.split()]))
    if not found:
        typer.echo(
            f"No model server answered GET /v1/models there. Name yours: {command()} init http://HOST:PORT ...",
            err=True,
        )
        return 1
    for server in found:
        typer.echo(f"  {server.url}  {server.kind}  {', '.join(server.models[:5])}")
    if not written(draft(found, listen), output):
        return 1
    report = check_file(output)
    typer.echo(f"\n{render(report)}\n\nWrote {output}. Run it: {command()} serve --config {output}")
    return 1 if report.problems else 0


def _whole(url: str) -> str:
    return url if "://" in url else f"http://{url}"
