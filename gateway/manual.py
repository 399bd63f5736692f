"""The manual page `seawall.1`, written from the commands themselves: `python -m gateway.manual > deploy/man/seawall.1`.

Format: man(7), in the macros that groff and mandoc both know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

import typer

from gateway import __version__

_SIGNALS = {
    "SIGHUP": "reload the configuration, whole or not at all",
    "SIGTERM": "drain: not ready, then no new connections, then what runs finishes; a second one ends it at once",
    "SIGUSR2": "with server.workers above 1: replace one worker process after the other",
}
_STATUSES = {"0": "fine", "1": "failed", "2": "usage, or a bad configuration"}
_FILES = {"gateway.yaml": "the configuration, in the working directory unless --config names another"}


def manual() -> str:
    """The page in roff."""
    from gateway.cli import app

    group = typer.main.get_command(app)
    summary = _text(str(group.help)).rstrip(".")
    lines = [
        f'.TH SEAWALL 1 "" "Seawall {__version__}" "User Commands"',
        ".SH NAME",
        f"seawall \\- {summary[0].lower()}{summary[1:]}",
        ".SH SYNOPSIS",
        ".B seawall",
        ".RI [ options ]",
        ".I command",
        ".RI [ arguments ]",
        ".SH DESCRIPTION",
        "Clients speak the OpenAI API (or Anthropic's, or a plain /generate) to one address; behind it stand model",
        "servers. Seawall picks one, forwards, and hides every failure that can be hidden. What cannot be hidden comes",
        "back at once as one typed error that says what to do, with a correlation ID that is found again in every log",
        "line and backend request.",
        ".SH COMMANDS",
    ]
    variables: dict[str, str] = {}
    for path, command in _commands(group, "seawall"):
        lines += [f".SS {_text(_usage(path, command))}", *_paragraphs(command.help)]
        lines += _options(command, variables)
    lines += [".SH SIGNALS", "Of seawall serve:", *_list(_SIGNALS)]
    lines += [".SH EXIT STATUS", *_list(_STATUSES)]
    lines += [".SH ENVIRONMENT", *_list(dict(sorted(variables.items())))]
    lines += [".PP", "Further ones are read where the configuration names them, as ${VARIABLE}."]
    lines += [".SH FILES", *_list(_FILES)]
    return "\n".join(lines) + "\n"


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(how it is called, command) of every command, groups left out."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _usage(path: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    words = [f"{'' if each.required else '['}{each.name.upper()}{'' if each.required else ']'}" for each in arguments]
    return " ".join([path, "[options]", *words])


def _options(command: Any, variables: dict[str, str]) -> Iterator[str]:
    for option in command.params:
        if not (text := option.help or ""):
            continue
        if option.param_type_name == "argument":
            called = f"\\fI{_text(option.name.upper())}\\fR"
        else:
            value = "" if getattr(option, "is_flag", False) else f" \\fI{_text(_value(option))}\\fR"
            called = ", ".join(f"\\fB{_text(name)}\\fR" for name in option.opts) + value
        if option.envvar:
            variables[str(option.envvar)] = text
            text = f"{text} Else the variable {option.envvar}."
        if _has_default(option):
            text = f"{text} Default: {getattr(option.default, 'value', option.default)}."
        yield from (".TP", called, _text(text))


def _has_default(option: Any) -> bool:
    flag = getattr(option, "is_flag", False)
    return not flag and option.default is not None and not callable(option.default) and option.default != ()


def _value(option: Any) -> str:
    if isinstance(option.default, Enum):
        return "|".join(str(each.value) for each in type(option.default))
    return str(option.name).upper()


def _paragraphs(help_text: str | None) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", (help_text or "").strip())):
        if number:
            yield ".PP"
        yield _text(" ".join(paragraph.split()))


def _list(entries: dict[str, str]) -> Iterator[str]:
    for name, text in entries.items():
        yield from (".TP", f"\\fB{_text(name)}\\fR", _text(text))


def _text(text: str) -> str:
    """A text that is nothing but text to roff."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    print(manual(), end="")
