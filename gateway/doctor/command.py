"""Runs all examinations and prints what they found."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rich.console import Console
from rich.text import Text

from gateway.config import Config
from gateway.config.check import check_file
from gateway.doctor import backends, machine
from gateway.doctor.findings import Finding, Level, failure, ok, warning
from gateway.doctor.practice import practices

_MARKS = {
    Level.OK: ("✓", "green"),
    Level.ADVICE: ("·", "cyan"),
    Level.WARNING: ("!", "yellow"),
    Level.FAILURE: ("✗", "red"),
}
Sections = list[tuple[str, list[Finding]]]


def run(file: Path, url: str | None, key: str | None) -> int:
    """Examines and prints. Returns the exit code: 1 if anything failed."""
    console = Console(highlight=False)
    sections = asyncio.run(examine(file, url, key))
    for title, findings in sections:
        console.print(Text(f"\n{title}", style="bold"))
        for finding in findings:
            mark, style = _MARKS[finding.level]
            console.print(Text.assemble(("  " + mark + " ", style), finding.what), soft_wrap=True)
            if finding.advice:
                console.print(Text(f"      {finding.advice}", style="dim"), soft_wrap=True)
    counts = {level: sum(f.level is level for _, found in sections for f in found) for level in Level}
    summary = (
        f"\n{counts[Level.OK]} good, {counts[Level.ADVICE]} to consider, {counts[Level.WARNING]} warnings, "
        f"{counts[Level.FAILURE]} failures"
    )
    console.print(Text(summary, style="bold red" if counts[Level.FAILURE] else "bold green"))
    return 1 if counts[Level.FAILURE] else 0


async def examine(file: Path, url: str | None, key: str | None) -> Sections:
    """All findings by section."""
    config, found = _configuration(file)
    sections: Sections = [("Configuration", found)]
    if config is not None:
        sections.append(("Backends", await backends.examine(config)))
        sections.append(("This machine", machine.process(config)))
    if url is not None:
        sections.append((f"Gateway at {url}", await machine.gateway(url, key, config)))
    if config is not None:
        sections.append(("Practices of resilient serving", practices(config)))
    return sections


def _configuration(file: Path) -> tuple[Config | None, list[Finding]]:
    report = check_file(file)
    found = [failure(str(problem), "") for problem in report.problems]
    found += [warning(str(problem), "") for problem in report.warnings]
    return report.config, found or [ok(f"{file} holds no errors and nothing doubtful")]
