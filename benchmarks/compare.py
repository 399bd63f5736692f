"""The side-by-side comparison: all subjects up at once and measured in short turns, so that noise meets all alike."""

from __future__ import annotations

import contextlib
import statistics
from typing import Any

from benchmarks import runner
from benchmarks.subjects import Subject

#: One measurement by name; a subject has one list of them, one entry per turn.
Row = dict[str, float]

#: What is reported for each subject, and in which unit.
UNITS = {
    "cpu_us_per_request": "µs",
    "requests_per_s": "1/s",
    "added_p50_ms": "ms",
    "added_p99_ms": "ms",
    "added_p999_ms": "ms",
    "cpu_us_per_frame_paced": "µs",
    "cpu_us_per_frame_flat_out": "µs",
    "added_first_token_p50_ms": "ms",
    "added_first_token_p99_ms": "ms",
    "longest_gap_ms": "ms",
    "kib_per_idle_stream": "KiB",
    "rss_mib": "MiB",
    "cold_start_s": "s",
    "failed": "",
}
_STREAMS = 256
_IDLE_STREAMS = 1000
_INTERVAL = 20  # ms
_PACED: dict[str, Any] = {"connections": _STREAMS, "frames": 100, "interval": _INTERVAL, "ramp": 1, "warmup": 0.7}


class Comparison:
    """Collects rows by subject. `skipped` says why a subject has none; `direct` are rows of the backend alone.

    `rate` is that of the latency phase in requests per second, the same for all.
    """

    def __init__(self, subjects: list[Subject], *, seconds: float, rate: int) -> None:
        self.rows: dict[str, list[Row]] = {subject.name: [] for subject in subjects}
        self.skipped: dict[str, str] = {}
        self.direct: list[Row] = []
        self._subjects = subjects
        self._seconds = seconds
        self._rate = rate

    def run(self, turns: int) -> None:
        """One run: starts all subjects anew, measures each in `turns` turns, then the memory of idle streams."""
        with runner.mock() as backend, contextlib.ExitStack() as stack:
            up: list[runner.Running] = []
            for subject in self._subjects:
                if subject.name in self.skipped:
                    continue
                with self._skipping(subject):
                    up.append(stack.enter_context(runner.running(subject, backend)))
                    self._row(up[-1])["cold_start_s"] = up[-1].cold_start
            for one in up:
                with self._skipping(one.subject):
                    self._idle(one)
            for turn in range(turns):
                base = self._base(backend)
                at = turn % max(1, len(up))
                for one in up[at:] + up[:at]:
                    if one.subject.name in self.skipped:
                        continue
                    with self._skipping(one.subject):
                        self._turn(one, base)
                print(f"turn {turn + 1} of {turns} done", flush=True)

    @contextlib.contextmanager
    def _skipping(self, subject: Subject) -> Any:
        try:
            yield
        except runner.SubjectError as error:
            self.skipped[subject.name] = str(error)

    def _row(self, one: runner.Running) -> Row:
        row: Row = {}
        self.rows[one.subject.name].append(row)
        return row

    def _base(self, backend: int) -> Row:
        even = runner.load(backend, self._seconds, rate=self._rate, connections=64)["latency_ms"]
        paced = runner.load(backend, self._seconds, **_PACED)["first_ms"]
        self.direct.append({**even, "first_p50": paced["p50"], "first_p99": paced["p99"]})
        return self.direct[-1]

    def _turn(self, one: runner.Running, base: Row) -> None:
        row, seconds = self._row(one), self._seconds
        unary = one.load(seconds)
        row["requests_per_s"] = unary["answers"] / unary["seconds"]
        row["cpu_us_per_request"] = _each(unary, "answers")
        row["rss_mib"] = unary["rss"] / 2**20
        even = one.load(seconds, rate=self._rate, connections=64)
        if even["answers"] > 0.9 * self._rate * seconds:
            for name in ("p50", "p99", "p999"):
                row[f"added_{name}_ms"] = even["latency_ms"][name] - base[name]
        paced = one.load(seconds, **_PACED)
        row["cpu_us_per_frame_paced"] = _each(paced, "frames")
        if paced["frames"] > 0.9 * _STREAMS * seconds * 1000 / _INTERVAL:
            row["longest_gap_ms"] = paced["gap_ms"]["max"]
            row["added_first_token_p50_ms"] = paced["first_ms"]["p50"] - base["first_p50"]
            row["added_first_token_p99_ms"] = paced["first_ms"]["p99"] - base["first_p99"]
        flat = one.load(seconds, frames=200)
        row["cpu_us_per_frame_flat_out"] = _each(flat, "frames")
        row["failed"] = float(sum(found["failed"] for found in (unary, even, paced, flat)))

    def _idle(self, one: runner.Running) -> None:
        """Memory of streams that wait: what a fresh process grows by, per stream."""
        before = one.load(0.5, connections=8)["rss"]
        options = {"connections": _IDLE_STREAMS, "frames": 10, "interval": 10000, "ramp": 2, "warmup": 1}
        try:
            found = one.load(0.2, **options)
        except runner.SubjectError:  # too many streams for it: what it can do is measured all the same
            return
        if not found["failed"]:
            self._row(one)["kib_per_idle_stream"] = (found["rss"] - before) / 1024 / _IDLE_STREAMS


def _each(found: dict[str, Any], what: str) -> float:
    return float(found["cpu_seconds"]) / found[what] * 1e6 if found[what] else 0.0


def summary(rows: dict[str, list[Row]]) -> dict[str, dict[str, tuple[float, float]]]:
    """(median, half of the distance between the quartiles) by subject and measure, over all turns of all runs."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for name, turns in rows.items():
        measures: dict[str, tuple[float, float]] = {}
        for measure in UNITS:
            # A cost of zero is a turn without answers, which says nothing of the cost.
            seen = (row.get(measure) for row in turns)
            values = sorted(value for value in seen if value is not None and (value or measure == "failed"))
            if values:
                quarter = len(values) // 4
                spread = (values[-1 - quarter] - values[quarter]) / 2
                measures[measure] = (statistics.median(values), spread)
        if measures:
            found[name] = measures
    return found


def ratios(rows: dict[str, list[Row]], measure: str, to: str = "envoy") -> dict[str, float]:
    """Each subject's measure over that of `to` in the same turn: the median over turns. Load on the machine cancels."""
    base = [row for row in rows.get(to, []) if "requests_per_s" in row]
    found: dict[str, float] = {}
    for name, turns in rows.items():
        own = [row for row in turns if "requests_per_s" in row]
        pairs = [(one[measure], other[measure]) for one, other in zip(own, base, strict=False)]
        if both := [one / other for one, other in pairs if one and other]:
            found[name] = statistics.median(both)
    return found
