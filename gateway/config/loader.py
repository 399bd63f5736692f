"""gateway.yaml from a file to a checked `Config`, or to everything that is wrong with it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gateway.config.explain import explain, locate
from gateway.config.inherit import lineage
from gateway.config.problems import ConfigError, Problem, in_order
from gateway.config.rules import Finding, check_references, check_semantics
from gateway.config.schema import Config
from gateway.config.tree import MAX_FILE, Node, ParseError, dotted, parse

__all__ = ["ConfigError", "Loaded", "Problem", "load", "load_config", "load_text", "read"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A reading of a configuration: `config` is None if there are errors among `problems`."""

    config: Config | None
    problems: list[Problem]


def load_config(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Config:
    """Reads and checks a configuration file. Raises ConfigError with all that is wrong."""
    return load_text(read(path), os.fspath(path), environ)


def load_text(text: str, name: str = "gateway.yaml", environ: Mapping[str, str] = os.environ) -> Config:
    """Checks a configuration; `name` is the file's name in problems. Raises ConfigError with all that is wrong."""
    loaded = load(text, name, environ)
    if loaded.config is None:
        raise ConfigError(problem for problem in loaded.problems if problem.severity == "error")
    return loaded.config


def read(path: str | os.PathLike[str]) -> str:
    """The text of a configuration file, of bounded size. Raises ConfigError."""
    name = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a file's name"
        raise ConfigError([Problem(name, 0, 0, "", f"can't be read: {reason}")]) from None
    if len(data) > MAX_FILE:
        raise ConfigError([Problem(name, 0, 0, "", "the file is larger than 1 MiB")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        problem = Problem(name, line, column, "", "the file is not UTF-8", "save it as UTF-8")
        raise ConfigError([problem]) from None


def load(text: str, name: str, environ: Mapping[str, str]) -> Loaded:
    """Reads a configuration and gathers errors and warnings instead of raising."""
    try:
        root, problems = parse(text, name, environ)
    except ParseError as error:
        return Loaded(None, [error.problem])
    if root is None or root.value is None:
        hint = "backends and routes are required"
        return Loaded(None, [*problems, Problem(name, 0, 0, "", "the file is empty", hint)])
    if not isinstance(root.value, dict):
        message = "the file must hold a mapping (server:, backends:, routes:, ...)"
        return Loaded(None, [*problems, Problem(name, root.at.line, root.at.column, "", message)])
    raw = root.plain()
    problems += [_placed(finding, root, name) for finding in check_references(raw)]
    config: Config | None = None
    try:
        config = Config.model_validate(_with_sound_parents(raw))
    except ValidationError as error:
        problems += explain(error, root, name)
    if config is not None:
        problems += [
            _placed(finding, root, name)
            for finding in check_semantics(config)
            if not finding.if_written or root.find(finding.path)[1] == finding.path
        ]
    failed = any(problem.severity == "error" for problem in problems)
    return Loaded(None if failed else config, in_order(problems))


def _with_sound_parents(raw: dict[str, Any]) -> dict[str, Any]:
    """Takes out every faulty `extends` (reported already), so that the rest is still validated."""
    policies = raw.get("policies")
    if not isinstance(policies, dict):
        return raw
    sound = dict(policies)
    for name in policies:
        while (chain_and_fault := lineage(name, sound))[1]:
            faulty = chain_and_fault[0][-1]
            sound[faulty] = {**sound[faulty], "extends": None}
    return {**raw, "policies": sound}


def _placed(finding: Finding, root: Node, name: str) -> Problem:
    _, path, at = locate(root, finding.path)
    return Problem(name, at.line, at.column, dotted(path), finding.message, finding.hint, finding.severity)
