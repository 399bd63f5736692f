"""The tables of docs/chaos.md, from the saved figures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.chaos.runner import Result
from benchmarks.chaos.scenarios import SCENARIOS, Scenario
from benchmarks.chaos.subjects import SUBJECTS

#: What stands between these two lines of the page is written by `renew`.
BEGIN, END = "<!-- figures: begin; written by `python -m benchmarks.chaos --table` -->", "<!-- figures: end -->"
_TITLES = {
    "seawall": "Seawall",
    "envoy": "Envoy",
    "litellm": "LiteLLM",
    "portkey": "Portkey",
    "sglang-router": "SGLang router",
    "vllm-router": "vLLM router",
}
Latest = Mapping[tuple[str, str], Result]


def latest(folder: Path) -> tuple[dict[tuple[str, str], Result], dict[str, str]]:
    """The last result of each (scenario, subject); for each subject its name, version and day of its last run.

    The files' names sort by date. Raises ValueError or TypeError for a file that holds something else.
    """
    found: dict[tuple[str, str], Result] = {}
    runs: dict[str, str] = {}
    for path in sorted(folder.glob("chaos-*.json")):
        day = path.stem.removeprefix("chaos-")[:10]
        for item in json.loads(path.read_text()):
            result = Result(**item)
            found[result.scenario, result.subject] = result
            runs[result.subject] = " ".join(filter(None, (_title(result.subject), result.version, f"({day})")))
    return found, runs


def render(found: Latest, runs: Mapping[str, str]) -> str:
    """Two tables, exactness and times, with a column for each subject that was measured, and when that was."""
    names = [subject.name for subject in SUBJECTS if subject.name in runs]
    exact = _table(found, names, exactness)
    times = _table(found, names, lambda scenario, result: f"{result.p99:.2f}")
    return (
        f"{exact}\n\nThe 99th percentile of the time to a whole answer, in seconds, of those that were right:"
        f"\n\n{times}\n\nMeasured: {', '.join(runs[name] for name in names)}."
    )


def exactness(scenario: Scenario, result: Result) -> str:
    """One cell: percent of unary answers and of streams that were right, and what else counts in this scenario."""
    told = [f"{_percent(result.unary_exact)} / {_percent(result.streams_exact)}"]
    if result.silent:
        told.append(f"**{result.silent} silent**")
    if not scenario.good:
        told.append(f"x{result.amplification:.2f}")
    if result.aborted is not None:
        told.append("not stopped" if math.isinf(result.aborted) else f"stopped in {result.aborted:.2f} s")
    return ", ".join(told)


def renew(page: Path, folder: Path) -> None:
    """Writes the tables into the page anew. Raises ValueError if it has no place for them."""
    page.write_text(renewed(page.read_text(), folder))


def renewed(text: str, folder: Path) -> str:
    """The page's text with the tables of the figures in `folder`. Raises ValueError if it has no place for them."""
    before, after = text.index(BEGIN) + len(BEGIN), text.index(END)
    return f"{text[:before]}\n\n{render(*latest(folder))}\n\n{text[after:]}"


def _table(found: Latest, names: list[str], cell: Callable[[Scenario, Result], str]) -> str:
    lines = ["| Fault | " + " | ".join(map(_title, names)) + " |", "|---" * (len(names) + 1) + "|"]
    for scenario in SCENARIOS:
        results = [found.get((scenario.name, name)) for name in names]
        if any(results):
            cells = [cell(scenario, result) if result else "" for result in results]
            lines.append(f"| {scenario.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _title(name: str) -> str:
    return _TITLES.get(name, name)


def _percent(share: float) -> str:
    """Never rounded up to all."""
    return "100" if share == 1 else f"{math.floor(share * 1000) / 10:.1f}"
