"""Goodput when more is asked than a backend can do: `python -m benchmarks.overload`.

A backend of known capacity (a process: so many answers at a time, each so long), the gateway before it (a process), and
an open load that does not wait for answers. Offered load from half the capacity to ten times of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import uvloop

from benchmarks import report, runner
from benchmarks.load import percentiles

ROOT = Path(__file__).parents[1]
PLACES, TOKENS, PER_TOKEN = 8, 20, 0.005
#: Answers a second that the backend can give.
CAPACITY = PLACES / (TOKENS * PER_TOKEN)
LOADS = (0.5, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
MODES = {"fixed": f"{{mode: fixed, limit: {PLACES}}}", "adaptive": "{mode: adaptive, min: 4, max: 64}"}
TITLES = {
    "goodput": "answers/s ({mode}), by offered load over capacity",
    "accepted_p99_ms": "p99 of the answered, ms ({mode})",
    "refused_p99_ms": "p99 of the time to refuse, ms ({mode})",
    "queue_wait_ms": "mean wait in the line, ms ({mode})",
}
_CONFIG = """\
server: {{listen: 127.0.0.1:{port}}}
backends: {{one: {{url: "{url}", kind: vllm, model: tiny}}}}
routes: [{{model: bench, backends: [one]}}]
policies: {{default: {{concurrency: {mode}, admission: {{max_queue: 32, max_wait: 1s}}}}}}
"""
_BODY = json.dumps(
    {"model": "bench", "messages": [{"role": "user", "content": "How does the tide come about?"}], "max_tokens": TOKENS}
).encode()


@contextlib.contextmanager
def _process(command: list[str], *, announced: bool = False) -> Iterator[str]:
    """A process until the block ends; the first line that it prints, where it is to print one."""
    out = subprocess.PIPE if announced else subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.DEVNULL)
    try:
        yield process.stdout.readline().decode() if process.stdout is not None else ""
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


class Load:
    """Asks on time, on a free connection or a new one. `answers`: status, seconds, seconds since the start."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.answers: list[tuple[int, float, float]] = []

    async def offer(self, rate: float, seconds: float) -> None:
        self.answers = []
        began = monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(int(rate * seconds)):
                pause = began + number / rate - monotonic()
                if pause > 0:
                    await asyncio.sleep(pause)
                group.create_task(self._one(began, began + number / rate))

    async def _one(self, began: float, due: float) -> None:
        status = 0
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            status, _ = await self.ask("POST", "/v1/chat/completions", _BODY)
        now = monotonic()
        self.answers.append((status, now - due, now - began))

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """(status, body) of one request."""
        if not self._idle:
            self._idle.append(await asyncio.open_connection("127.0.0.1", self._port))
        reader, writer = connection = self._idle.pop()
        head = f"{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = re.search(rb"content-length: (\d+)", answer)
        got = await reader.readexactly(int(length[1])) if length is not None else b""
        if b"connection: close" in answer or length is None:
            got += await reader.read()
            writer.close()
        else:
            self._idle.append(connection)
        return int(answer[9:12]), got

    async def queue_wait(self) -> tuple[float, float]:
        """(sum of waits in seconds, how many waited) so far."""
        text = (await self.ask("GET", "/metrics"))[1].decode()
        found = [
            re.search(rf"^seawall_queue_wait_seconds_{part}{{.*}} (\S+)$", text, re.M) for part in ("sum", "count")
        ]
        total, count = (float(match[1]) if match is not None else 0.0 for match in found)
        return total, count


async def _point(load: Load, times: float, seconds: float) -> dict[str, Any]:
    """One offered load, `times` the capacity."""
    waited, waits = await load.queue_wait()
    await load.offer(times * CAPACITY, seconds)
    waited_since, waits_since = await load.queue_wait()
    answers = load.answers
    good = [taken for status, taken, _ in answers if status == 200]
    refused = [taken for status, taken, _ in answers if status != 200]
    count = max(1.0, waits_since - waits)
    return {
        "load": times,
        "offered": len(answers),
        "goodput": round(sum(status == 200 and at <= seconds for status, _, at in answers) / seconds, 1),
        "refused": len(refused),
        "other_than_503": sum(status not in (200, 503) for status, _, _ in answers),
        "accepted_ms": percentiles(good),
        "refused_ms": percentiles(refused),
        "refused_within_50_ms": round(sum(taken <= 0.05 for taken in refused) / max(1, len(refused)), 4),
        "queue_wait_ms": round((waited_since - waited) / count * 1000, 1),
    }


@contextlib.contextmanager
def _gateway(mode: str, url: str) -> Iterator[int]:
    """The gateway before the backend at `url`; its port."""
    port = runner.free_port()
    with tempfile.TemporaryDirectory() as work:
        path = Path(work, "gateway.yaml")
        path.write_text(_CONFIG.format(port=port, url=url, mode=MODES[mode]))
        with _process([sys.executable, "-m", "gateway", "serve", "--config", str(path)]):
            yield port


async def curve(mode: str, port: int, seconds: float) -> list[dict[str, Any]]:
    """All offered loads at one gateway, the smallest first."""
    load = Load(port)
    for _ in range(200):
        with contextlib.suppress(OSError):
            await load.ask("GET", "/livez")
            break
        await asyncio.sleep(0.1)
    await load.offer(CAPACITY / 2, 1.0)
    points = []
    for times in LOADS:
        points.append(await _point(load, times, seconds))
        print(mode, json.dumps(points[-1]), flush=True)
    return points


def charts(found: dict[str, list[dict[str, Any]]]) -> str:
    """Each measure by offered load, for each mode."""
    points: dict[str, list[tuple[float, float]]] = {}
    for measure in TITLES:
        for mode, rows in found.items():
            points[f"{measure} {mode}"] = [(row["load"], _value(row, measure)) for row in rows]
    titles = {f"{measure} {mode}": TITLES[measure].format(mode=mode) for measure in TITLES for mode in found}
    return report.curves(points, titles)


def _value(row: dict[str, Any], measure: str) -> float:
    if measure.endswith("_p99_ms"):
        return float(row[measure.replace("_p99", "")].get("p99", 0.0))
    return float(row[measure])


async def _main(options: argparse.Namespace) -> None:
    found: dict[str, list[dict[str, Any]]] = {}
    backend = [sys.executable, "-m", "tests.support.fault_backend", "--concurrency", str(PLACES)]
    backend += ["--per-token", str(PER_TOKEN)]
    for mode in MODES:
        with _process(backend, announced=True) as line, _gateway(mode, line.split()[1]) as port:
            found[mode] = await curve(mode, port, options.seconds)
    for mode, rows in found.items():
        peak = max(row["goodput"] for row in rows)
        kept = {row["load"]: round(row["goodput"] / peak, 3) for row in rows if row["load"] >= 5}
        print(f"{mode}: peak {peak}/s of {CAPACITY:.0f}/s; share of it kept: {kept}")
    if not options.no_save:
        document = {"date": report.now(), "machine": report.machine(), "capacity": CAPACITY, "modes": found}
        print(f"saved {report.save('overload', document)}")
        (report.RESULTS / "overload.svg").write_text(charts(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each offered load")
    parser.add_argument("--no-save", action="store_true")
    uvloop.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
