"""`seawall check`: everything wrong or doubtful about a file, and what a request may cost at worst."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.config.loader import load, read
from gateway.config.problems import ConfigError, Problem
from gateway.config.schema import Config, RouteConfig
from gateway.config.units import format_duration


@dataclass(frozen=True, slots=True)
class WorstCase:
    """The most one request of a route can cost.

    `attempts` counts over all tiers. `seconds` is the time until the client has the answer's first token or an
    error: the queue, then every attempt failing as late as it can, with the longest waits between. Hedges count as
    attempts. After everything was down, one that comes back may be asked beyond them, twice at most. What follows a
    first token is bounded by `timeout.total`.
    """

    attempts: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found: `problems` are errors, `worst_cases` go by route name and are empty if there are errors."""

    file: str
    problems: list[Problem]
    warnings: list[Problem]
    worst_cases: dict[str, WorstCase] = field(default_factory=dict)
    config: Config | None = None


def worst_case(config: Config, route: RouteConfig) -> WorstCase:
    """Attempts and seconds at worst: every further tier is granted one attempt beyond `retry.attempts`."""
    policy = config.policy_for(route)
    timeout, backoff = policy.timeout, policy.retry.backoff
    attempts = policy.retry.attempts + len(route.tiers) - 1
    seconds = policy.admission.max_wait + attempts * (timeout.connect + timeout.first_token)
    wait = backoff.initial
    for _ in range(attempts - 1):
        seconds += min(wait, backoff.max)
        wait = min(wait * backoff.factor, backoff.max)
    return WorstCase(attempts, min(seconds, timeout.total))


def check_file(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Report:
    """Checks a configuration file; a file that can't be read is a problem like any other."""
    name = os.fspath(path)
    try:
        loaded = load(read(path), name, environ)
    except ConfigError as error:
        return Report(name, error.problems, [])
    warnings = [problem for problem in loaded.problems if problem.severity == "warning"]
    if loaded.config is None:
        return Report(name, [p for p in loaded.problems if p.severity == "error"], warnings)
    worst_cases = {route.name: worst_case(loaded.config, route) for route in loaded.config.routes}
    return Report(name, [], warnings, worst_cases, loaded.config)


def render(report: Report) -> str:
    """The report as `seawall check` prints it: one line for each finding, a summary, and the worst cases."""
    lines = [f"error: {problem}" for problem in report.problems]
    lines += [f"warning: {problem}" for problem in report.warnings]
    counts = f"{_count(len(report.problems), 'error')}, {_count(len(report.warnings), 'warning')}"
    if report.config is None:
        return "\n".join([*lines, f"{report.file}: {counts}"])
    config = report.config
    what = f"{_count(len(config.backends), 'backend')}, {_count(len(config.routes), 'route')}"
    lines.append(f"{report.file}: {what}; {counts}")
    table: list[tuple[str, ...]] = [("route", "tiers", "attempts", "resumes", "first token or error", "whole answer")]
    for route in config.routes:
        worst = report.worst_cases[route.name]
        numbers = (len(route.tiers), worst.attempts, _resumes(config, route))
        times = (worst.seconds, config.policy_for(route).timeout.total)
        table.append((route.name, *map(str, numbers), *map(_rounded, times)))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines += ["", "at worst:"]
    lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
    return "\n".join(lines)


def _resumes(config: Config, route: RouteConfig) -> int:
    """How many further attempts a stream may get that breaks after it has begun."""
    stream, targets = config.policy_for(route).stream, sum(map(len, route.tiers))
    return stream.max_resumes if stream.resume and targets > 1 else 0


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def _rounded(seconds: float) -> str:
    return format_duration(round(seconds, 1) if seconds >= 1 else round(seconds, 3))
