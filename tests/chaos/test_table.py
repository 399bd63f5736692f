"""The tables of docs/chaos.md say what was measured, and nothing better."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.chaos import table
from benchmarks.chaos.__main__ import PAGE, RESULTS
from benchmarks.chaos.runner import Result
from benchmarks.chaos.scenarios import BY_NAME

_GOOD = Result("envoy", "killed", 400, 1.0, 1.0, 0, 0.456, 0.1, 1.0, 0.0, 0.0, None, {}, version="1.40.0")


@pytest.mark.parametrize(
    ("scenario", "result", "cell"),
    [
        ("killed", _GOOD, "100 / 100"),
        ("killed", replace(_GOOD, unary_exact=0.9999, streams_exact=0.83), "99.9 / 83.0"),
        ("killed", replace(_GOOD, streams_exact=0.5, silent=3), "100 / 50.0, **3 silent**"),
        ("all_500", replace(_GOOD, amplification=1.999), "100 / 100, x2.00"),
        ("leavers", replace(_GOOD, aborted=0.004), "100 / 100, stopped in 0.00 s"),
        ("leavers", replace(_GOOD, aborted=math.inf), "100 / 100, not stopped"),
    ],
)
def test_a_cell_says_what_clients_saw(scenario: str, result: Result, cell: str) -> None:
    assert table.exactness(BY_NAME[scenario], result) == cell


def _keep(folder: Path, stamp: str, *results: Result) -> None:
    (folder / f"chaos-{stamp}.json").write_text(json.dumps([result.as_json() for result in results]))


def test_the_last_figure_of_each_subject_and_scenario_counts(tmp_path: Path) -> None:
    stalled = replace(_GOOD, scenario="stall", streams_exact=0.7)
    _keep(tmp_path, "2026-11-26T0900", replace(_GOOD, silent=9), stalled)
    _keep(tmp_path, "2026-11-27T0800", _GOOD, replace(_GOOD, subject="seawall", version=""))
    exact, times = table.render(*table.latest(tmp_path)).split("percentile")
    assert exact.splitlines()[:4] == [
        "| Fault | Seawall | Envoy |",
        "|---|---|---|",
        "| killed -9, back after 5 s | 100 / 100 | 100 / 100 |",
        "| each stream stalls after 10 tokens |  | 100 / 70.0 |",
    ]
    assert "| killed -9, back after 5 s | 0.46 | 0.46 |" in times
    assert times.endswith("Measured: Seawall (2026-11-27), Envoy 1.40.0 (2026-11-27).")


def test_only_what_stands_between_the_two_lines_is_written_anew(tmp_path: Path) -> None:
    _keep(tmp_path, "2026-11-27T0800", _GOOD)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.renew(page, tmp_path)
    text = page.read_text()
    assert text.startswith(f"before\n{table.BEGIN}\n\n| Fault | Envoy |")
    assert text.endswith(f"\n\n{table.END}\nafter\n")
    assert "old" not in text


def test_a_page_without_a_place_for_the_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="substring"):
        table.renewed("no place", tmp_path)


def test_the_page_shows_the_figures_that_are_kept() -> None:
    text = PAGE.read_text()
    assert table.renewed(text, RESULTS) == text, "run `python -m benchmarks.chaos --table`"
