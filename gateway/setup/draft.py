"""A configuration in the making, and how it is written down."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
import yaml

#: What completes and checks the file in an editor, once the schema lies beside it.
_FOR_EDITORS = (
    "# yaml-language-server: $schema=gateway.schema.json\n"
    "# (for completion in editors; the schema: seawall schema > gateway.schema.json)"
)
_PLAIN = re.compile(r"[a-z0-9]+")


@dataclass(slots=True)
class Draft:
    """Sections of gateway.yaml as plain values; `notes` are said to the person and stand at the file's head."""

    server: dict[str, Any] = field(default_factory=dict)
    keys: list[dict[str, Any]] = field(default_factory=list)
    backends: dict[str, dict[str, Any]] = field(default_factory=dict)
    routes: list[dict[str, Any]] = field(default_factory=list)
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add_backend(self, wish: str, settings: dict[str, Any]) -> str:
        """Takes a backend in under a name made of `wish`, and returns that name."""
        name = unused(slug(wish), self.backends)
        self.backends[name] = settings
        return name

    def text(self) -> str:
        """The file."""
        lines = [_FOR_EDITORS]
        lines += [f"# {note}" for note in self.notes]
        if self.server:
            lines += ["", f"server: {flow(self.server)}"]
        if self.keys:
            lines += ["", "auth:", "  keys:", *(f"    - {flow(key)}" for key in self.keys)]
        lines += ["", "backends:", *(f"  {name}: {flow(settings)}" for name, settings in self.backends.items())]
        lines += ["", "routes: # the first match wins", *(f"  - {flow(route)}" for route in self.routes)]
        if self.policies:
            lines += ["", "policies:"]
            for name, policy in self.policies.items():
                lines += [f"  {name}:", *(f"    {section}: {flow(value)}" for section, value in policy.items())]
        return "\n".join(lines) + "\n"


def written(draft: Draft, output: Path) -> bool:
    """Writes the file; where it cannot be, says so and returns False."""
    try:
        output.write_text(draft.text(), "utf-8")
    except OSError as error:
        typer.echo(f"{output} can't be written: {error.strerror}", err=True)
        return False
    return True


def slug(text: str) -> str:
    """A name for a backend: lower-case letters, digits and dashes."""
    return "-".join(_PLAIN.findall(text.lower())) or "backend"


def unused(name: str, taken: dict[str, Any]) -> str:
    """The name, or with the first number that makes it new."""
    if name not in taken:
        return name
    number = 2
    while f"{name}-{number}" in taken:
        number += 1
    return f"{name}-{number}"


def flow(value: Any) -> str:
    """A value on one line of YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    plain = re.fullmatch(r"[A-Za-z][\w.+/-]*|\d+(\.\d+)?(ms|s|m|h)", value) and yaml.safe_load(value) == value
    return value if plain else json.dumps(value, ensure_ascii=False)
