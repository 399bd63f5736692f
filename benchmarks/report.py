"""Results as a table, as JSON with a history, and as charts in SVG."""

from __future__ import annotations

import datetime
import json
import math
import platform
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.compare import UNITS

RESULTS = Path(__file__).parent / "results"
_COLUMNS = {
    "cpu_us_per_request": "CPU µs/request",
    "requests_per_s": "req/s",
    "cpu_us_per_frame_paced": "CPU µs/frame, paced",
    "cpu_us_per_frame_flat_out": "CPU µs/frame, flat out",
    "added_p50_ms": "added p50 ms",
    "added_p99_ms": "p99",
    "added_p999_ms": "p99.9",
    "added_first_token_p99_ms": "added TTFT p99 ms",
    "kib_per_idle_stream": "KiB/idle stream",
    "rss_mib": "RSS MiB",
    "cold_start_s": "cold start s",
    "failed": "failed",
}


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    cpu = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    cores = Path("/proc/cpuinfo").read_text().count("processor\t")
    return {"cpu": cpu, "cores": cores, "python": platform.python_version(), "kernel": platform.release()}


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def table(found: dict[str, dict[str, tuple[float, float]]]) -> str:
    """A Markdown table; after each CPU figure half of the distance between the quartiles of all turns."""
    lines = ["| | " + " | ".join(_COLUMNS.values()) + " |", "|---|" + "---|" * len(_COLUMNS)]
    for name, measures in found.items():
        cells = [_cell(column, measures.get(column)) for column in _COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(column: str, value: tuple[float, float] | None) -> str:
    if value is None:
        return "-"
    median, spread = value
    if column in ("requests_per_s", "failed"):
        return f"{median:,.0f}"
    if UNITS[column] == "µs":
        return f"{median:,.1f} ± {spread:.1f}"
    return f"{median:.2f}" if median < 100 else f"{median:,.0f}"


def save(kind: str, document: dict[str, Any]) -> Path:
    """Writes `results/KIND-DATE.json` and, beside the older ones, `results/KIND-latest.json`."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(document, indent=1) + "\n"
    day = document["date"].replace(":", "").replace("-", "")[:13]
    path = RESULTS / f"{kind}-{day}.json"
    path.write_text(text)
    (RESULTS / f"{kind}-latest.json").write_text(text)
    return path


# -- charts ----------------------------------------------------------------------------------------------------------

_STYLE = (
    "<style>text{font:12px system-ui,sans-serif;fill:#333}.t{font-weight:600;font-size:14px}.b{fill:#b8c4ce}"
    ".own{fill:#0b7285}.l{fill:none;stroke:#0b7285;stroke-width:2}.p{fill:#0b7285}.a{stroke:#ccc;stroke-width:1}</style>"
)


def bars(found: dict[str, dict[str, tuple[float, float]]], measures: dict[str, str]) -> str:
    """One horizontal bar chart per measure (name: title), logarithmic, as the subjects are orders apart."""
    parts, top, width = [], 0, 760
    for measure, title in measures.items():
        values = {name: row[measure][0] for name, row in found.items() if row.get(measure, (0.0, 0.0))[0] > 0}
        if not values:
            continue
        parts.append(f'<text class="t" x="10" y="{top + 20}">{escape(title)}</text>')
        low = min(values.values()) / 2
        scale = 480 / math.log(max(values.values()) / low)
        for row, (name, value) in enumerate(sorted(values.items(), key=lambda item: item[1])):
            y = top + 32 + row * 22
            own = "own" if name == "seawall" else "b"
            length = scale * math.log(value / low)
            parts.append(f'<text x="150" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
            parts.append(f'<rect class="{own}" x="160" y="{y}" width="{length:.1f}" height="17" rx="2"/>')
            parts.append(f'<text x="{168 + length:.1f}" y="{y + 13}">{value:,.1f}</text>')
        top += 50 + 22 * len(values)
    return _svg(width, top, parts)


def curves(points: dict[str, list[tuple[float, float]]], titles: dict[str, str]) -> str:
    """Small line charts, two in a row: y from zero, x in equal steps with the values written below."""
    parts: list[str] = []
    for number, (name, series) in enumerate(points.items()):
        left, top = 50 + 380 * (number % 2), 40 + 210 * (number // 2)
        parts.append(f'<text class="t" x="{left - 40}" y="{top - 18}">{escape(titles.get(name, name))}</text>')
        highest = max(y for _, y in series) * 1.15 or 1.0
        step = 300 / max(1, len(series) - 1)
        places = [(left + i * step, top + 130 - 130 * y / highest) for i, (_, y) in enumerate(series)]
        parts.append(f'<path class="a" d="M{left} {top + 130}h310"/>')
        parts.append(f'<polyline class="l" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>')
        for (x, y), (at, value) in zip(places, series, strict=True):
            parts.append(f'<circle class="p" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
            parts.append(f'<text x="{x:.1f}" y="{y - 8:.1f}" text-anchor="middle">{value:,.1f}</text>')
            parts.append(f'<text x="{x:.1f}" y="{top + 146}" text-anchor="middle">{at:,g}</text>')
    return _svg(780, 40 + 210 * ((len(points) + 1) // 2), parts)


def _svg(width: int, height: int, parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
    return f'{head}{_STYLE}<rect width="100%" height="100%" fill="#fff"/>' + "".join(parts) + "</svg>\n"
