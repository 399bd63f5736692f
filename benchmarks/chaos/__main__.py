"""`python -m benchmarks.chaos`: breaks backends under load; exits 1 if Seawall missed a goal."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from benchmarks.chaos import table
from benchmarks.chaos.runner import Result, run, write
from benchmarks.chaos.scenarios import BY_NAME as SCENARIOS
from benchmarks.chaos.scenarios import Scenario
from benchmarks.chaos.subjects import BY_NAME as SUBJECTS
from benchmarks.subjects import BY_NAME as PEERS
from benchmarks.subjects import install_missing

RESULTS = Path(__file__).resolve().parents[1] / "results"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "chaos.md"
_HEADER = (
    "scenario",
    "subject",
    "unary",
    "streams",
    "silent",
    "p99 s",
    "stall s",
    "amplif.",
    "wasted",
    "recovery s",
    "late s",
)


def row(result: Result) -> tuple[str, ...]:
    """A line of the table."""
    return (
        result.scenario,
        result.subject,
        f"{result.unary_exact:.2%}",
        f"{result.streams_exact:.2%}",
        str(result.silent),
        f"{result.p99:.2f}",
        f"{result.stall:.2f}",
        f"{result.amplification:.2f}",
        f"{result.wasted:.1f}",
        f"{result.recovery:.2f}",
        f"{result.late:.2f}",
    )


def problems(result: Result, scenario: Scenario) -> list[str]:
    """Where a result misses what is promised."""
    found = []
    if result.silent:
        found.append(f"{result.silent} answers cut or wrong and passed off as whole")
    if scenario.good and min(result.unary_exact, result.streams_exact) < 1:
        found.append(f"failed although a good backend was left: {result.why}")
    if not scenario.good and result.amplification > 1.2:
        found.append(f"{result.amplification} backend requests per request")
    if result.recovery > 2:
        found.append(f"{result.recovery} s to recover")
    if result.aborted is not None and result.aborted > 0.5:
        found.append(f"{result.aborted} s until a backend saw that its client had left")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--scenarios", help=f"names, separated by commas: {', '.join(SCENARIOS)}")
    parser.add_argument("--subjects", default="seawall", help=f"names, or all: {', '.join(SUBJECTS)}")
    parser.add_argument("--install", action="store_true", help="install the peers that are missing")
    parser.add_argument("--rate", type=float, help="requests a second; 40 when left out, 10 for LiteLLM")
    parser.add_argument(
        "--save", action="store_true", help="keep the figures in benchmarks/results, and renew docs/chaos.md"
    )
    parser.add_argument("--table", action="store_true", help="only renew docs/chaos.md from the figures kept")
    parser.add_argument("--logs", type=Path, help="a folder for what the subjects print")
    options = parser.parse_args()
    if options.table:
        table.renew(PAGE, RESULTS)
        return 0
    names = list(SUBJECTS) if options.subjects == "all" else options.subjects.split(",")
    scenarios = [SCENARIOS[name] for name in (options.scenarios or ",".join(SCENARIOS)).split(",")]
    if options.install:
        for name, why in install_missing(tuple(PEERS[name] for name in names if name in PEERS)).items():
            print(f"{name}: not installed: {why}", file=sys.stderr)
    if options.logs is not None:
        options.logs.mkdir(parents=True, exist_ok=True)
    results, missed = [], 0
    print(" ".join(f"{title:>12}" for title in _HEADER))
    for scenario in scenarios:
        for name in names:
            subject = SUBJECTS[name]
            if subject.installed is not None and not subject.installed.exists():
                continue
            try:
                result = asyncio.run(run(subject, scenario, rate=options.rate or subject.rate, logs=options.logs))
            except RuntimeError as error:
                print(f"{scenario.name:>12} {name:>12} {error}", flush=True)
                continue
            results.append(result)
            print(" ".join(f"{cell:>12}" for cell in row(result)), flush=True)
            if name == "seawall":
                for problem in problems(result, scenario):
                    missed += 1
                    print(f"{'':>12} ! {problem}", flush=True)
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        write(results, RESULTS / f"chaos-{time.strftime('%Y-%m-%dT%H%M')}.json")
        table.renew(PAGE, RESULTS)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
