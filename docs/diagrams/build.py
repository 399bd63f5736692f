"""Draws the diagrams of docs/concepts.md as SVG: `python docs/diagrams/build.py`. They need no script and no network,
and follow the reader's light or dark colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).parent
Point = tuple[float, float]
_STYLE = """
svg { background: #fff; font: 14px system-ui, "DejaVu Sans", sans-serif; }
text { fill: #1f2933; text-anchor: middle; dominant-baseline: central; }
.small { font-size: 12px; fill: #52606d; } .left { text-anchor: start; }
rect, .life { fill: #eef4f7; stroke: #0b7285; stroke-width: 1.5; }
.good rect { fill: #e3f5e9; stroke: #2b8a3e; } .bad rect { fill: #fdecea; stroke: #c0392b; }
.wait rect { fill: #fff4db; stroke: #b7791f; }
path { fill: none; stroke: #52606d; stroke-width: 1.5; } .tip { fill: #52606d; stroke: none; }
.broken { stroke: #c0392b; stroke-dasharray: 5 4; }
.cross { stroke: #c0392b; stroke-width: 3; } .life { stroke-dasharray: 3 4; }
@media (prefers-color-scheme: dark) {
  svg { background: #11181f; } text { fill: #e4e9ee; } .small { fill: #a7b3bf; }
  rect, .life { fill: #16252d; stroke: #4dabc0; } .good rect { fill: #12301c; stroke: #51cf66; }
  .bad rect { fill: #391714; stroke: #ff8787; } .wait rect { fill: #332708; stroke: #ffd43b; }
  path { stroke: #a7b3bf; } .tip { fill: #a7b3bf; } .broken, .cross { stroke: #ff8787; }
}
"""


class Drawing:
    """A picture of `width` by `height` pixels; `title` is what a screen reader says."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img" aria-label="{escape(title)}">\n<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n'
        )
        self._parts: list[str] = []

    def box(self, at: Point, text: str, note: str = "", *, tone: str = "", width: float = 104) -> None:
        """A box around its middle `at`; `tone` is good, bad or wait."""
        x, y = at
        height = 52 if note else 38
        self._parts.append(f'<g class="{tone}">' if tone else "<g>")
        self._parts.append(
            f'<rect x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width:g}" height="{height}" rx="7"/>'
        )
        self.text((x, y - (9 if note else 0)), text)
        if note:
            self.text((x, y + 11), note, small=True)
        self._parts.append("</g>")

    def text(self, at: Point, text: str, *, small: bool = False, left: bool = False) -> None:
        names = " ".join(name for name, on in (("small", small), ("left", left)) if on)
        attribute = f' class="{names}"' if names else ""
        self._parts.append(f'<text x="{at[0]:g}" y="{at[1]:g}"{attribute}>{escape(text)}</text>')

    def arrow(
        self, *points: Point, label: str = "", at: Point | None = None, broken: bool = False, left: bool = False
    ) -> None:
        """A line through the points with its tip at the last; the label stands above its middle, or at `at`."""
        line = " L".join(f"{x:g} {y:g}" for x, y in points)
        self._parts.append(f'<path{" class=" + chr(34) + "broken" + chr(34) if broken else ""} d="M{line}"/>')
        (ax, ay), (bx, by) = points[-2:]
        angle = math.atan2(by - ay, bx - ax)
        wings = [(bx - 9 * math.cos(angle + turn), by - 9 * math.sin(angle + turn)) for turn in (0.45, -0.45)]
        tip = " L".join(f"{x:.1f} {y:.1f}" for x, y in ((bx, by), *wings))
        if not broken:
            self._parts.append(f'<path class="tip" d="M{tip} Z"/>')
        if label:
            (ax, ay), (bx, by) = points[0], points[-1]
            self.text(at or ((ax + bx) / 2, (ay + by) / 2 - 10), label, small=True, left=left)

    def lifeline(self, x: float, top: float, bottom: float) -> None:
        self._parts.append(f'<path class="life" d="M{x:g} {top:g} L{x:g} {bottom:g}"/>')

    def cross(self, at: Point) -> None:
        x, y = at
        self._parts.append(
            f'<path class="cross" d="M{x - 8} {y - 8} L{x + 8} {y + 8} M{x - 8} {y + 8} L{x + 8} {y - 8}"/>'
        )

    def svg(self) -> str:
        return self._head + "\n".join(self._parts) + "\n</svg>\n"


def request() -> Drawing:
    drawing = Drawing(980, 250, "A request's way: accept, identify, validate, route, admit, attempt, relay, account")
    names = ("accept", "identify", "validate", "route", "admit", "attempt", "relay", "account")
    notes = (
        "limits",
        "ID, key",
        "once",
        "tiers, policy",
        "queue, limits",
        "ask, judge",
        "whole frames",
        "log, metrics",
    )
    places = [(64 + 122 * at, 90.0) for at in range(len(names))]
    for place, name, note in zip(places, names, notes, strict=True):
        drawing.box(place, name, note, tone="good" if name == "relay" else "")
    for (x, y), (to, _) in pairwise(places):
        drawing.arrow((x + 52, y), (to - 52, y))
    attempt = places[5][0]
    drawing.arrow(
        (attempt + 26, 64),
        (attempt + 26, 34),
        (attempt - 26, 34),
        (attempt - 26, 64),
        label="failed: the next endpoint or tier",
        at=(attempt, 20),
    )
    drawing.box((attempt, 205), "typed error", tone="bad")
    for at in (1, 2, 3, 4):
        drawing.arrow((places[at][0], 116), (places[at][0], 205), (attempt - 52, 205))
    drawing.text((places[1][0] + 8, 192), "refused", small=True, left=True)
    drawing.arrow((attempt, 116), (attempt, 186), label="nowhere left", at=(attempt + 8, 150), left=True)
    drawing.arrow((attempt + 52, 205), (places[7][0], 205), (places[7][0], 116))
    return drawing


def breaker() -> Drawing:
    drawing = Drawing(820, 250, "A circuit breaker's states: closed, open, half open")
    drawing.box((110, 70), "closed", "asked as usual", tone="good", width=140)
    drawing.box((700, 70), "open", "not asked", tone="bad", width=140)
    drawing.box((405, 205), "half open", "a few requests probe it", tone="wait", width=180)
    drawing.arrow((180, 70), (630, 70), label="5 failures in a row, or half of at least 10 within 30 s,", at=(405, 40))
    drawing.text((405, 56), "or 80 % of them slower than 20 s to the first token", small=True)
    drawing.arrow((670, 96), (670, 195), (495, 195), label="after 10 s, at most 5 min", at=(580, 180))
    drawing.arrow((495, 218), (735, 218), (735, 96), label="a failed probe", at=(610, 234))
    drawing.arrow((315, 205), (110, 205), (110, 96), label="2 good probes", at=(212, 190))
    return drawing


def failover() -> Drawing:
    drawing = Drawing(
        880,
        430,
        "Failover inside a stream: the backend dies, the answer goes on at another, the client sees one stream",
    )
    client, seawall, first, second = 90.0, 330.0, 560.0, 780.0
    for x, name in ((client, "client"), (seawall, "Seawall"), (first, "llama-a"), (second, "llama-b")):
        drawing.lifeline(x, 50, 195 if x == first else 375)
        drawing.box((x, 30), name)
    drawing.arrow((client, 80), (seawall, 80), label="chat, stream: true")
    drawing.arrow((seawall, 95), (first, 95), label="the same, and return_token_ids")
    for y, words in ((125.0, "Long ago"), (155.0, "in an old")):
        drawing.arrow((first, y), (seawall, y), label=f"“{words}” and its ids")
        drawing.arrow((seawall, y + 8), (client, y + 8), label=f"“{words}”")
    drawing.cross((first, 200))
    drawing.text((first + 16, 200), "killed", small=True, left=True)
    drawing.arrow((seawall, 250), (second, 250), label="goes on: the prompt and all delivered, as token ids")
    for y, words in ((285.0, "fishing village"), (315.0, "there was a whale")):
        drawing.arrow((second, y), (seawall, y), label=f"“{words}”")
        drawing.arrow((seawall, y + 8), (client, y + 8), label=f"“{words}”")
    drawing.arrow((second, 350), (seawall, 350), label="[DONE]")
    drawing.arrow((seawall, 358), (client, 358), label="usage of the whole, [DONE]")
    drawing.text(
        (client + 8, 390),
        "one stream: the same id, created and model, no text lost or said twice",
        small=True,
        left=True,
    )
    return drawing


def admission() -> Drawing:
    drawing = Drawing(900, 280, "Admission: a free slot, else the queue, else an early refusal")
    drawing.box((80, 80), "request", "routed", width=110)
    drawing.box((265, 80), "limits of the key", "rate, tokens, concurrency", width=190)
    drawing.box((490, 80), "a free slot?", "limit of each endpoint", width=170)
    drawing.box((770, 80), "attempt", "slot held to its end", tone="good", width=160)
    drawing.box((490, 190), "queue", "by priority, tenants in turn", tone="wait", width=200)
    drawing.box((265, 245), "429", "rate_limited", tone="bad", width=120)
    drawing.box((770, 245), "503 with Retry-After", "model_overloaded", tone="bad", width=180)
    drawing.arrow((135, 80), (170, 80))
    drawing.arrow((360, 80), (405, 80))
    drawing.arrow((575, 80), (690, 80), label="yes")
    drawing.arrow((265, 106), (265, 219), label="over them", at=(273, 160), left=True)
    drawing.arrow((490, 106), (490, 164), label="no", at=(498, 135), left=True)
    drawing.arrow((590, 180), (750, 180), (750, 106), label="a slot is free", at=(670, 168))
    drawing.arrow((590, 202), (625, 202), (625, 245), (680, 245))
    drawing.text((480, 240), "no place in it, too long to be expected,", small=True)
    drawing.text((480, 256), "or max_wait is over", small=True)
    return drawing


DIAGRAMS: dict[str, Callable[[], Drawing]] = {
    "request": request,
    "breaker": breaker,
    "failover": failover,
    "admission": admission,
}

if __name__ == "__main__":
    for name, draw in DIAGRAMS.items():
        (HERE / f"{name}.svg").write_text(draw().svg(), "utf-8")
