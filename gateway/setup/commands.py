"""`seawall import`: reads another gateway's file, writes ours, and says what it could not carry over."""

from __future__ import annotations

from pathlib import Path

import typer
import yaml

from gateway.program import command
from gateway.setup.draft import written
from gateway.setup.litellm import convert


def run_import(file: Path, output: Path | None) -> int:
    """Converts a LiteLLM configuration. Returns the exit code: 2 when the file is not one, or would be written over."""
    if output is not None and output.exists():
        typer.echo(f"{output} is there already: give another name.", err=True)
        return 2
    try:
        draft = convert(yaml.safe_load(file.read_text("utf-8")) or {})
    except OSError as error:
        typer.echo(f"{file}: {error.strerror}", err=True)
        return 2
    except (UnicodeDecodeError, yaml.YAMLError, ValueError, AttributeError) as error:
        typer.echo(f"{file}: {error}", err=True)
        return 2
    for note in draft.notes:
        typer.echo(note, err=True)
    if output is None:
        typer.echo(draft.text(), nl=False)
        return 0
    if not written(draft, output):
        return 1
    typer.echo(f"Wrote {output}. Next: {command()} check {output}", err=True)
    return 0
