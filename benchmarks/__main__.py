"""`python -m benchmarks`: the comparison (`run`), growth curves (`curves`), the installation of peers (`peers`)."""

from __future__ import annotations

import argparse
import sys

from benchmarks import compare, growth, report
from benchmarks.subjects import BY_NAME, SUBJECTS, install_missing

_CHART = {
    "cpu_us_per_request": "CPU µs per unary request (whole process tree, logarithmic)",
    "cpu_us_per_frame_paced": "CPU µs per streamed frame, 256 streams at 50 frames/s (logarithmic)",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="measure side by side")
    run.add_argument("--subjects", help="names, separated by commas; all when left out")
    run.add_argument("--install", action="store_true", help="install the peers that are missing")
    run.add_argument("--runs", type=int, default=3, help="how often everything is started anew")
    run.add_argument("--turns", type=int, default=3, help="of each subject in a run")
    run.add_argument("--seconds", type=float, default=1.0, help="of each phase of a turn")
    run.add_argument("--rate", type=int, default=1000, help="requests a second in the latency phase")
    run.add_argument("--no-save", action="store_true")
    curves = verbs.add_parser("curves", help="how Seawall's cost grows")
    curves.add_argument("--seconds", type=float, default=2.0)
    curves.add_argument("--only", help="names of curves, separated by commas")
    curves.add_argument("--no-save", action="store_true")
    verbs.add_parser("peers", help="install the peers that are missing")
    options = parser.parse_args()
    if options.verb == "peers":
        return _peers()
    return _run(options) if options.verb == "run" else _curves(options)


def _peers() -> int:
    for name, why in install_missing(SUBJECTS).items():
        print(f"{name}: not installed: {why}", file=sys.stderr)
    return 0


def _run(options: argparse.Namespace) -> int:
    names = options.subjects.split(",") if options.subjects else list(BY_NAME)
    unknown = [name for name in names if name not in BY_NAME]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; known: {', '.join(BY_NAME)}", file=sys.stderr)
        return 2
    chosen = [BY_NAME[name] for name in names]
    skipped = install_missing(tuple(chosen)) if options.install else {}
    for subject in chosen:
        if subject.installed() is None:
            skipped.setdefault(subject.name, "not installed; `make bench-peers` does it")
    subjects = [subject for subject in chosen if subject.name not in skipped]
    comparison = compare.Comparison(subjects, seconds=options.seconds, rate=options.rate)
    for run in range(options.runs):
        print(f"run {run + 1} of {options.runs}", flush=True)
        comparison.run(options.turns)
    skipped |= comparison.skipped
    rows = comparison.rows
    found = compare.summary(rows)
    print("\n" + report.table(found))
    for measure in ("cpu_us_per_request", "cpu_us_per_frame_paced"):
        told = ", ".join(f"{name} {ratio:.2f}" for name, ratio in compare.ratios(rows, measure).items())
        print(f"{measure} over envoy's in the same turn: {told}")
    for name, why in skipped.items():
        print(f"{name}: skipped: {why}")
    if not options.no_save:
        document = {"date": report.now(), "machine": report.machine(), "runs": options.runs}
        document |= {"turns": options.turns, "seconds": options.seconds, "rate": options.rate, "units": compare.UNITS}
        document |= {"rows": rows, "direct": comparison.direct, "skipped": skipped}
        print(f"saved {report.save('compare', document)}")
        (report.RESULTS / "compare.svg").write_text(report.bars(found, _CHART))
    return 0


def _curves(options: argparse.Namespace) -> int:
    chosen = options.only.split(",") if options.only else list(growth.CURVES)
    points = {name: growth.curve(name, options.seconds) for name in chosen}
    if not options.no_save:
        document = {"date": report.now(), "machine": report.machine(), "titles": growth.TITLES, "points": points}
        print(f"saved {report.save('curves', document)}")
        (report.RESULTS / "curves.svg").write_text(report.curves(points, growth.TITLES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
